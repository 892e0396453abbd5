"""The versions: of the package, and of the order of its sums."""

__version__ = "0.1.0"

# Of the order in which everything is added up and rounded (docs/order.md), and what `_verify` gives
# for it on every processor that has fused multiply-add, for all cases and for the smallest.
ORDER = 1
DIGEST = "f30d0076031dc89b7e9c7379ec8911828ff14c0859be497cbad6b51ab0131ec2"
TINY_DIGEST = "7a6f1e64868253c1c8433ca047d53b755d0de1b45aa4605370a5da4da1c8a823"
