"""The operations of `simd` in plain Python, for ``NUMBA_DISABLE_JIT=1``.

Each vector that is loaded or stored must lie within its array, and on a line of the cache where a
store goes past the caches: compiled code would read or overwrite what belongs to others.
"""

import numpy as np

from .._runtime.jit import data_pointer
from .abi import CHAIN, INTERLEAVED, INTERLEAVED_BOTH, VECTOR_BYTES


def _lanes(array, size=VECTOR_BYTES):
    return max(1, size // array.itemsize)


def _place(array, start, n):
    """Where n values from ``start`` on lie in an array, all of them within it."""
    start, stop = int(start), int(start) + int(n)
    if not 0 <= start <= stop <= array.size:
        raise IndexError(f"values {start} to {stop} of an array of {array.size}")
    return slice(start, stop)


def _load(array, start, n):
    return array[_place(array, start, n)]


def _store(array, start, values, nontemporal=False):
    place = _place(array, start, values.size)
    if nontemporal and (data_pointer(array) + place.start * array.itemsize) % VECTOR_BYTES:
        raise ValueError(f"a non-temporal store to value {place.start} is not on a line")
    array[place] = values


def make_affine(size=VECTOR_BYTES, nontemporal=False, pair=False, twice=False):
    def affine(out, x, dy, o, center, scale, offset, gain, p, *further):
        n = _lanes(out, size)

        def coefficient(values):
            if pair:
                q, k = further
                here, there = (_load(values, place, 1) for place in (p, q))
                return np.where(np.arange(n) < k, here, there)
            return _load(values, p, n) if np.ndim(values) else values

        results = []
        for place in (o, o + further[0]) if twice else (o,):
            result = 0
            if x is not None:
                centered = _load(x, place, n) - coefficient(center)
                result = centered * coefficient(scale) + coefficient(offset)
            if dy is not None:
                result = (_load(dy, place, n) + result) * coefficient(gain)
            results.append((place, result))
        for place, result in results:
            _store(out, place, result, nontemporal)

    return affine


def _terms(x, dy, o, n, shift, exact):
    """What is added up, u and d: x - shift twice, or dy and x - shift."""
    d, u = _load(x, o, n), None if dy is None else _load(dy, o, n)
    if exact:
        d, shift = d.astype(np.float64), np.float64(shift)
        u = u if u is None else u.astype(np.float64)
    d = d - shift
    return (d if u is None else u), d


def _add(x, dy, o, shift, s1, s2, j, n, exact):
    u, d = _terms(x, dy, o + j, n, _load(shift, j, n), exact)
    _store(s1, j, _load(s1, j, n) + u)
    _store(s2, j, _load(s2, j, n) + u * d)


def add_rows(x, dy, o, distance, shift, s1, s2, j):
    for row in range(_rows(dy)):
        _add(x, dy, o + np.uintp(row) * distance, shift, s1, s2, j, _lanes(x), False)


def _rows(dy):
    return INTERLEAVED if dy is None else INTERLEAVED_BOTH


def make_add_exactly(size=VECTOR_BYTES):
    def add_exactly(x, dy, o, shift, s1, s2, j):
        _add(x, dy, o, shift, s1, s2, j, _lanes(x, size), True)

    return add_exactly


def make_sum_run(exact):
    def sum_run(x, dy, o, n, shift):
        if n < _lanes(x):
            raise IndexError(f"a run of {n} values is shorter than a vector")
        u, d = _terms(x, dy, o, n, shift, exact)
        s1 = s2 = np.float64(0)
        for i in range(0, u.size, CHAIN):
            s1 += u[i : i + CHAIN].sum()
            s2 += (u[i : i + CHAIN] * d[i : i + CHAIN]).sum()
        return s1, s2

    return sum_run


_sum_run = make_sum_run(exact=False)


def sum_interleaved(x, dy, o, n, distance, shift):
    starts = (o + np.uintp(k) * distance for k in range(_rows(dy)))
    sums = [_sum_run(x, dy, start, n, shift) for start in starts]
    return tuple(map(sum, zip(*sums, strict=True)))


def fence():
    """Plain Python has no non-temporal stores to order."""
