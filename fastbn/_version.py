"""The versions: of the package, and of the order of its sums."""

__version__ = "0.2.0"

# Of the order in which everything is added up and rounded (docs/order.md), and what `_verify` gives
# for it on every processor that has fused multiply-add: of calls without options, with options, and
# of bfloat16; for all cases and for the smallest.
ORDER = 3
DIGESTS = {
    "digest": "54fc291d9e111eb79f6ccbf6379b77e35883670ce695210d38cd26877b31a5d5",
    "options": "285219f9f89b189e08e373e64f355b70fb3b07f6eb83bc13731ce8cda8460646",
    "bfloat16": "3cc3b7afb3d9007b668127a896f3da58b7e7cb13cc4070e22fcfb1495ab8bd0a",
}
TINY_DIGESTS = {
    "digest": "b55d4a5f7e5cf1a053fed71c2b9beae2dc88b094d23d252f9cf9e931e019eef5",
    "options": "270227acb4eb1369e480c7aaa577189318e4c4b235193dc473f4354b44e52b5a",
    "bfloat16": "11149c4315f73dbbb95b517e91b8270ae6c0207c97f18e31a776d8b909145be8",
}
