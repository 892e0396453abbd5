"""The versions: of the package, and of the order of its sums."""

__version__ = "0.1.0"

# Of the order in which everything is added up and rounded (docs/order.md), and what `_verify` gives
# for it on every processor that has fused multiply-add: of calls without options, with options, and
# of bfloat16; for all cases and for the smallest.
ORDER = 3
DIGESTS = {
    "digest": "d72bdae33aefe74db8a10d3b741ef918e16472c3d52cea67c77b15dd1d315676",
    "options": "fca95dcd53e0f6605db385725dceea70efd69e4b16e30873451a8bfe19f3f1e6",
    "bfloat16": "3cc3b7afb3d9007b668127a896f3da58b7e7cb13cc4070e22fcfb1495ab8bd0a",
}
TINY_DIGESTS = {
    "digest": "bdb642afb72144fb0f05f2bd1d0c4d3ec889d244eb236a4c8a9f263277576371",
    "options": "4e043a3e48600560abd597ae9d2a94ddbed53b53cfb2226e2030d934d5d43a3f",
    "bfloat16": "11149c4315f73dbbb95b517e91b8270ae6c0207c97f18e31a776d8b909145be8",
}
