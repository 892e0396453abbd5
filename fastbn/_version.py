"""The versions: of the package, and of the order of its sums."""

__version__ = "0.1.0"

# Of the order in which everything is added up and rounded (docs/order.md), and what `_verify` gives
# for it on every processor that has fused multiply-add, for all cases and for the smallest.
ORDER = 2
DIGEST = "fcec4ad1bec1fa79a0daa47b3048417175075ea7638c16221e802e1d11a8a3b9"
TINY_DIGEST = "bfa2126d50f3ed9cd6fbfada3924cbe3613b80fb4afe1ffea855701e4a220df5"
