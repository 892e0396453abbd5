"""Contiguous runs: the inner loops that both families of kernels share."""

import numpy as np

from ._intrinsics import VECTOR_BYTES, affine, affine_one, affine_stream
from ._jit import block

ZERO, ONE, THREE, FOUR, EIGHT = (np.uintp(n) for n in (0, 1, 3, 4, 8))


@block
def aligned(n, like):
    """An array of n values, of the dtype of another, that begins on a cache line.

    Vectors that straddle two lines take sums by columns of 6 MB from 74 to 146 us.
    """
    lanes = np.uintp(VECTOR_BYTES // like.itemsize)
    raw = np.empty(n + lanes, like.dtype)
    skip = (lanes - np.uintp(raw.ctypes.data) // np.uintp(like.itemsize) % lanes) % lanes
    return raw[skip : skip + n]


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
