"""The operations of `_intrinsics` in plain Python, for ``NUMBA_DISABLE_JIT=1``."""

import numpy as np

from ._vectors import CHAIN, STREAMS, STREAMS_OF_BOTH, VECTOR_BYTES


def make_affine(size=VECTOR_BYTES, pair=False):
    def affine(out, x, dy, o, m, b, c, a, p, q=0, k=None):
        n = max(1, size // out.itemsize)
        here = slice(int(o), int(o) + n)
        if pair:
            place = np.where(np.arange(n) < k, p, q).astype(np.intp)
            m, b, c, a = (v[place] for v in (m, b, c, a))
        else:
            m, b, c, a = (v[int(p) : int(p) + n] if np.ndim(v) else v for v in (m, b, c, a))
        result = 0 if x is None else (x[here] - m) * b + c
        out[here] = result if dy is None else (dy[here] + result) * a

    return affine


_affine = make_affine()


def affine_twice(out, x, dy, o, m, b, c, a, p, distance):
    _affine(out, x, dy, o, m, b, c, a, p)
    _affine(out, x, dy, o + distance, m, b, c, a, p)


def add_rows(x, dy, o, distance, shift, s1, s2, j):
    there = slice(int(j), int(j) + max(1, VECTOR_BYTES // x.itemsize))
    for row in range(_streams(dy)):
        start = int(o) + row * int(distance)
        here = slice(start + there.start, start + there.stop)
        u, d = _terms(x[here], None if dy is None else dy[here], shift[there], False)
        s1[there] += u
        s2[there] += u * d


def _streams(dy):
    return STREAMS if dy is None else STREAMS_OF_BOTH


def make_add_exactly(size=VECTOR_BYTES):
    def add_exactly(x, dy, o, shift, s1, s2, j):
        there = slice(int(j), int(j) + max(1, size // x.itemsize))
        here = slice(int(o) + there.start, int(o) + there.stop)
        u, d = _terms(x[here], None if dy is None else dy[here], shift[there], True)
        s1[there] += u
        s2[there] += u * d

    return add_exactly


def _terms(x, dy, shift, exact):
    if exact:
        x, shift = x.astype(np.float64), np.float64(shift)
        dy = dy if dy is None else dy.astype(np.float64)
    d = x - shift
    return (d if dy is None else dy), d


def make_sum_run(exact):
    def sum_run(x, dy, o, n, shift):
        here = slice(int(o), int(o) + int(n))
        u, d = _terms(x[here], None if dy is None else dy[here], shift, exact)
        s1 = s2 = np.float64(0)
        for i in range(0, u.size, CHAIN):
            s1 += u[i : i + CHAIN].sum()
            s2 += (u[i : i + CHAIN] * d[i : i + CHAIN]).sum()
        return s1, s2

    return sum_run


_sum_run = make_sum_run(exact=False)


def sum_runs(x, dy, o, n, distance, shift):
    starts = (int(o) + k * int(distance) for k in range(_streams(dy)))
    sums = [_sum_run(x, dy, start, n, shift) for start in starts]
    return tuple(map(sum, zip(*sums, strict=True)))


def fence():
    """Plain Python has no streaming stores to order."""
