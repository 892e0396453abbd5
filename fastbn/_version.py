"""The versions: of the package, and of the order of its sums."""

__version__ = "0.1.0"

# Of the order in which everything is added up and rounded (docs/order.md), and what `_verify` gives
# for it on every processor that has fused multiply-add: of calls without options, with options, and
# of bfloat16; for all cases and for the smallest.
ORDER = 2
DIGESTS = {
    "digest": "fcec4ad1bec1fa79a0daa47b3048417175075ea7638c16221e802e1d11a8a3b9",
    "options": "7096d3f103e853bdf08235ba9e58cafcbe4960704c8cf5b66f32b18c0e05f0ba",
    "bfloat16": "56a6fa05cb4e8bcb5de71a2a0655822d73d7766a604e19e30a622584eb9bb767",
}
TINY_DIGESTS = {
    "digest": "bfa2126d50f3ed9cd6fbfada3924cbe3613b80fb4afe1ffea855701e4a220df5",
    "options": "4e043a3e48600560abd597ae9d2a94ddbed53b53cfb2226e2030d934d5d43a3f",
    "bfloat16": "11149c4315f73dbbb95b517e91b8270ae6c0207c97f18e31a776d8b909145be8",
}
