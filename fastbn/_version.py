"""The versions: of the package, and of the order of its sums."""

__version__ = "0.1.0"

# Of the order in which everything is added up and rounded (docs/order.md), and what `_verify` gives
# for it on every processor that has fused multiply-add.
ORDER = 1
DIGEST = "acebe9f6436a4015595d30174e5826afc7e1cd32f1dec960c06cfdb5148a21a1"
