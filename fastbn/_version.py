"""The versions: of the package, and of the order of its sums."""

__version__ = "0.1.0"

# Of the order in which everything is added up and rounded (docs/order.md), and what `_verify` gives
# for it on every processor that has fused multiply-add.
ORDER = 1
DIGEST = "f30d0076031dc89b7e9c7379ec8911828ff14c0859be497cbad6b51ab0131ec2"
