"""Contiguous runs: the inner loops that both families of kernels share."""

import numpy as np

from ._intrinsics import VECTOR_BYTES, affine, affine_one, affine_stream
from ._jit import block

ZERO, ONE, THREE, EIGHT = np.uintp(0), np.uintp(1), np.uintp(3), np.uintp(8)


@block
def same_memory(a, b):
    """Whether two flat arrays start at the same address; an absent one never does."""
    return False if b is None else a.ctypes.data == b.ctypes.data


@block
def write_run(out, x, dy, o, n, m, b, c, a, p, stream, inplace):
    """``out = ((dy +) (x - m) * b + c) (* a)`` over n values from o on; see `affine`."""
    lanes = np.uintp(VECTOR_BYTES // out.itemsize)
    i = ZERO
    if n >= lanes:
        if stream:
            address = np.uintp(out.ctypes.data) // np.uintp(out.itemsize) + o
            i = (lanes - address % lanes) % lanes
            if i > ZERO:
                affine(out, x, dy, o, m, b, c, a, p)
            while i + lanes <= n:
                affine_stream(out, x, dy, o + i, m, b, c, a, p + i)
                i += lanes
        while i + lanes <= n:
            affine(out, x, dy, o + i, m, b, c, a, p + i)
            i += lanes
        if i < n and not inplace:
            i = n - lanes
            affine(out, x, dy, o + i, m, b, c, a, p + i)
            i = n
    while i < n:
        affine_one(out, x, dy, o + i, m, b, c, a, p + i)
        i += ONE
