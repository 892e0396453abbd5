"""The versions: of the package, and of the order of its sums."""

__version__ = "0.1.0"

# Of the order in which everything is added up and rounded (docs/order.md), and what `_verify` gives
# for it on every processor that has fused multiply-add.
ORDER = 1
DIGEST = "8bd25ed24f4530719b4b58af66934536d5b30c2b7fd86e5f3ad32843fec85a18"
