"""The operations of `simd` in plain Python, for ``NUMBA_DISABLE_JIT=1``, with the same bits.

Each vector that is loaded or stored must lie within its array, and on a line of the cache where a
store goes past the caches: compiled code would read or overwrite what belongs to others.
"""

import math
from fractions import Fraction

import numpy as np

from .._runtime.jit import data_pointer
from .abi import CHAIN, INTERLEAVED, INTERLEAVED_BOTH, UNROLL, VECTOR_BYTES


def _fuse(a, b, c):
    """``a * b + c`` of three float64, rounded once."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return a * b + c
    if not math.isfinite(c):
        return c  # however large the product is
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    try:
        return float(exact) if exact else a * b + c  # which knows the sign of 0
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


_fuse_each = np.frompyfunc(_fuse, 3, 1)


def multiply_add(a, b, c):
    """``a * b + c``, rounded once.

    Of float32 by way of float64, where the product is exact: a sum that is rounded to odd has the
    digits that decide how float32 rounds (Boldo & Melquiond 2008).
    """
    a, b, c = np.broadcast_arrays(a, b, c)
    if a.dtype == np.float64:
        return _fuse_each(a, b, c).astype(np.float64)
    product, c = a.astype(np.float64) * b, c.astype(np.float64)
    total = product + c
    back = total - product
    lost = (product - (total - back)) + (c - back)
    bits = total.view(np.int64)
    towards_zero = (lost < 0) == (total > 0)
    even = (abs(lost) > 0) & (bits & 1 == 0)
    odd = np.where(even, bits + np.where(towards_zero, -1, 1), bits)
    return odd.view(np.float64).astype(np.float32)


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
                result = multiply_add(centered, coefficient(scale), coefficient(offset))
            if dy is not None:
                result = (_load(dy, place, n) + result) * coefficient(gain)
            results.append((place, result))
        for place, result in results:
            _store(out, place, result, nontemporal)

    return affine


def _terms(x, dy, o, n, shift, exact=False):
    """What is added up, u and d: x - shift twice, or dy and x - shift."""
    d, u = _load(x, o, n), None if dy is None else _load(dy, o, n)
    if exact:
        d, shift = d.astype(np.float64), np.asarray(shift, np.float64)
        u = u if u is None else u.astype(np.float64)
    d = d - shift
    return (d if u is None else u), d


def _chain(terms):
    """The sums of u and of u * d of each lane, one after the other."""
    total = product = None
    for u, d in terms:
        product = u * d if product is None else multiply_add(u, d, product)
        total = u if total is None else total + u
    return total, product


def _halves(values):
    """The sum of the two halves of a vector."""
    return values[: values.size // 2] + values[values.size // 2 :]


def _add(s1, s2, j, total, product):
    for sums, value in ((s1, total), (s2, product)):
        _store(sums, j, _load(sums, j, value.size) + value)


def make_add_rows(exact):
    def add_rows(x, dy, o, distance, shift, s1, s2, j):
        n, rows = _lanes(x), [o + j + np.uintp(k) * distance for k in range(_runs(dy))]
        terms = [_terms(x, dy, row, n, _load(shift, j, n), exact) for row in rows]
        pairs = zip(_chain(terms[::2]), _chain(terms[1::2]), strict=True)
        _add(s1, s2, j, *(one + other for one, other in pairs))

    return add_rows


def make_add_few(exact):
    def add_few(x, dy, o, distance, count, shift, s1, s2, j):
        n, rows = _lanes(x), [o + j + np.uintp(k) * distance for k in range(int(count))]
        if rows:
            terms = [_terms(x, dy, row, n, _load(shift, j, n), exact) for row in rows]
            _add(s1, s2, j, *_chain(terms))

    return add_few


def _runs(dy):
    return INTERLEAVED if dy is None else INTERLEAVED_BOTH


def make_add_exactly(size=VECTOR_BYTES):
    def add_exactly(x, dy, o, shift, s1, s2, j):
        n = _lanes(x, size)
        _add(s1, s2, j, *_chain([_terms(x, dy, o + j, n, _load(shift, j, n), True)]))

    return add_exactly


class _RunSum:
    """The sums of `simd.RunSum`, of the same terms in the same lanes."""

    def __init__(self, x, dy, shift, exact=False):
        self.x, self.dy, self.shift, self.exact = x, dy, shift, exact
        self.lanes = _lanes(x)
        self.totals = np.zeros((2, self.lanes // 2))

    def terms(self, o, done=0, through=None):
        """A vector's terms; 0 in lanes that are done, or behind so many."""
        lane = np.arange(self.lanes)
        new = (lane >= done) & (lane < (self.lanes if through is None else through))
        terms = _terms(self.x, self.dy, o, self.lanes, self.shift, self.exact)
        return [np.where(new, values, values.dtype.type(0)) for values in terms]

    def add(self, *chains):
        """Add to the totals the sums of one or two chains of terms."""
        sums = [_chain(terms) for terms in chains if terms]
        for total, values in zip(self.totals, zip(*sums, strict=True), strict=False):
            total += _halves(sum(values[1:], values[0]))

    def results(self):
        totals = list(self.totals)
        while totals[0].size > 1:
            totals = [_halves(total) for total in totals]
        return totals[0][0], totals[1][0]


def make_sum_run(exact):
    def sum_run(x, dy, o, n, count, distance, shift):
        run = _RunSum(x, dy, shift, exact)
        for k in range(int(count)):
            _add_run(run, int(o) + k * int(distance), int(n))
        return run.results()

    return sum_run


def _add_run(run, o, n):
    """Add one run to the totals, in chains."""
    vectors, rest = divmod(n, run.lanes)
    places = [o + k * run.lanes for k in range(vectors)]
    whole = vectors - vectors % UNROLL
    chains = [[] for _ in range(UNROLL)]
    for k, place in enumerate(places[:whole]):
        chains[k % UNROLL].append(run.terms(place))
        if (k + 1) % (UNROLL * CHAIN) == 0:
            run.add(*chains)
            chains = [[] for _ in range(UNROLL)]
    chains[0] += [run.terms(place) for place in places[whole:]]
    if rest:
        start = o + n - run.lanes if vectors else min(o, run.x.size - run.lanes)
        done = o + n - rest - start
        chains[0].append(run.terms(start, done, done + rest))
    run.add(*chains)


def sum_interleaved(x, dy, o, n, distance, shift):
    run = _RunSum(x, dy, shift)
    starts = [int(o) + k * int(distance) for k in range(_runs(dy))]
    vectors, rest = divmod(int(n), run.lanes)
    columns = [[run.terms(start + k * run.lanes) for start in starts] for k in range(vectors)]
    whole = vectors - vectors % 2
    for k in range(0, whole, 2):
        run.add(*columns[k : k + 2])
    last = int(n) - run.lanes, run.lanes - rest
    ends = [[run.terms(start + last[0], last[1]) for start in starts]] if rest else []
    for terms in columns[whole:] + ends:
        run.add(terms[::2], terms[1::2])
    return run.results()


def mean_near(x, p, q):
    def finite(value):
        return np.where(np.isfinite(value), value, x.dtype.type(0))

    first, share = finite(_load(x, p, 1)), x.dtype.type(0.5 / _lanes(x))
    one, other = (finite(_load(x, place, _lanes(x)) - first) for place in (p, q))
    total = multiply_add(other, share, one * share)
    while total.size > 1:
        total = _halves(total)
    return first[0] + total[0]


def repeat(out, values, j, c):
    _store(out, j, np.repeat(_load(values, c, 1), _lanes(out)))


def make_take_root(size=VECTOR_BYTES):
    def take_root(x, j):
        _store(x, j, np.sqrt(_load(x, j, _lanes(x, size))))

    return take_root


def fence():
    """Plain Python has no non-temporal stores to order."""
