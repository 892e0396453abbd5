"""The versions: of the package, and of the order of its sums."""

__version__ = "0.1.0"

# Of the order in which everything is added up and rounded (docs/order.md), and what `_verify` gives
# for it on every processor that has fused multiply-add: of calls without options, with options, and
# of bfloat16; for all cases and for the smallest.
ORDER = 3
DIGESTS = {
    "digest": "d72bdae33aefe74db8a10d3b741ef918e16472c3d52cea67c77b15dd1d315676",
    "options": "7096d3f103e853bdf08235ba9e58cafcbe4960704c8cf5b66f32b18c0e05f0ba",
    "bfloat16": "56a6fa05cb4e8bcb5de71a2a0655822d73d7766a604e19e30a622584eb9bb767",
}
TINY_DIGESTS = {
    "digest": "bdb642afb72144fb0f05f2bd1d0c4d3ec889d244eb236a4c8a9f263277576371",
    "options": "4e043a3e48600560abd597ae9d2a94ddbed53b53cfb2226e2030d934d5d43a3f",
    "bfloat16": "11149c4315f73dbbb95b517e91b8270ae6c0207c97f18e31a776d8b909145be8",
}
