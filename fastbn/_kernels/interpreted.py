"""The operations of `simd` in plain Python, for ``NUMBA_DISABLE_JIT=1``, with the same bits.

Each vector that is loaded or stored must lie within its array, and on a line of the cache where a
store goes past the caches: compiled code would read or overwrite what belongs to others.
"""

import math
from fractions import Fraction

import numpy as np

from .._runtime.jit import array_at, data_pointer, span
from .abi import CHAIN, INTERLEAVED, INTERLEAVED_BOTH, UNROLL, VECTOR_BYTES, Coefficients


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
    """Values of a vector; words of 16 bits are computed as float32."""
    return max(1, size // max(array.itemsize, 4))


def _place(array, start, n):
    """Where n values from ``start`` on lie in an array, all of them within it."""
    start, stop = int(start), int(start) + int(n)
    if not 0 <= start <= stop <= array.size:
        raise IndexError(f"values {start} to {stop} of an array of {array.size}")
    return slice(start, stop)


def _load(array, start, n):
    values = array[_place(array, start, n)]
    if values.dtype == np.uint16:
        return values.view(np.float16).astype(np.float32)
    if values.dtype == np.int16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values


def _words(values, dtype):
    """Numbers as they are stored, rounded to nearest, ties to even."""
    if dtype == np.uint16:
        return values.astype(np.float16).view(np.uint16)
    if dtype != np.int16:
        return values
    bits = values.astype(np.float32).view(np.uint32)
    rounded = bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))
    return (rounded >> 16).astype(np.uint16).view(np.int16)


def _store(array, start, values, nontemporal=False):
    place = _place(array, start, values.size)
    nbytes = values.size * array.itemsize
    if nontemporal and (data_pointer(array) + place.start * array.itemsize) % nbytes:
        raise ValueError(f"a non-temporal store to value {place.start} is not on a line")
    array[place] = _words(values, array.dtype)


def _activate(operands, deciding, value):
    """``value``, where the number that decides is above 0; elsewhere times the slope."""
    if operands.slope is False:
        return np.where(deciding <= 0, value.dtype.type(0), value)
    return np.where(deciding > 0, value, value * operands.slope)


def _before_activation(operands, place, centered, scale, offset):
    value = multiply_add(centered, scale, offset)
    if operands.residual is None:
        return value
    return value + _load(operands.residual, place, value.size)


def make_affine(size=VECTOR_BYTES, nontemporal=False, pair=False, twice=False):
    def affine(operands, o, coefficients, p, w, *further):
        n = _lanes(operands.out, size)

        def coefficient(values):
            if pair:
                q, _, k = further
                here, there = (_load(values, place, 1) for place in (p, q))
                return np.where(np.arange(n) < k, here, there)
            return _load(values, p, n) if np.ndim(values) else np.full(n, values)

        def weights(way):
            if not pair:
                return _load(operands.weights, w + way, n)
            _, v, k = further
            here, there = _load(operands.weights, w, n), _load(operands.weights, v - k, n)
            return np.where(np.arange(n) < k, here, there)

        results = []
        for way in (0, further[0]) if twice else (0,):
            results.append(
                (o + way, *_affine(operands, o + way, n, coefficients, coefficient, weights, way))
            )
        for place, result, before in results:
            _store(operands.out, place, result, nontemporal)
            if operands.dresidual is not None:
                _store(operands.dresidual, place, before, nontemporal)

    return affine


def _affine(operands, place, n, coefficients, coefficient, weights, way):
    """What is written: see `simd.Emitter.affine`."""
    centered = None
    if operands.x is not None:
        centered = _load(operands.x, place, n) - coefficient(coefficients.center)

    def line(scale, offset):
        return centered, coefficient(scale), coefficient(offset)

    if operands.dy is None:
        y = _before_activation(operands, place, *line(coefficients.scale, coefficients.offset))
        return (y if operands.slope is None else _activate(operands, y, y)), None
    dy = _load(operands.dy, place, n)
    if operands.slope is not None:
        level = line(coefficients.factor, coefficients.level)
        dy = _activate(operands, _before_activation(operands, place, *level), dy)
    result = dy
    if coefficients.scale is not None:
        through = multiply_add(*line(coefficients.scale, coefficients.offset))
        if operands.weights is not None:
            w = weights(way)
            through = np.where(w == 0, through.dtype.type(0), through * w)
        result = dy + through
    return result * coefficient(coefficients.gain), dy


def _terms(operands, o, n, coefficients, exact=False, w=None):
    """What is added up, u and d: see `simd.Emitter.terms`; here d is x - shift."""
    shift, x = coefficients.center, _load(operands.x, o, n)
    wide = np.float64 if exact else x.dtype
    d = x.astype(wide) - np.asarray(shift, wide)
    zero = d.dtype.type(0)
    if operands.dy is None:
        if operands.weights is None:
            return d, d
        weight = _load(operands.weights, w, n)
        d = np.where(weight == 0, zero, d)
        return d * weight.astype(wide), d
    dy = _load(operands.dy, o, n)
    if operands.slope is not None:
        level = coefficients.factor, coefficients.level
        dy = _activate(operands, _before_activation(operands, o, x - shift, *level), dy)
    if operands.masked is not None:
        d = np.where(dy == 0, zero, d)
    return dy.astype(wide), d


def _columns(coefficients, j, n):
    """The coefficients of n columns."""
    return _mapped(coefficients, lambda values: _load(values, j, n))


def of_channel(coefficients, j):
    """A channel's coefficients, as scalars."""
    return _mapped(coefficients, lambda values: values[j])


def part(coefficients, start, size):
    """As `span`, of all that there are."""
    return _mapped(coefficients, lambda values: span(values, start, size))


def _mapped(coefficients, function):
    return Coefficients(*(None if each is None else function(each) for each in coefficients))


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
    def add_rows(operands, o, coefficients, s1, s2, j, w, distance, w_distance):
        n, count = _lanes(operands.x), int(runs_at_once(operands))
        places = [(o + j + k * distance, w + k * w_distance) for k in map(np.uintp, range(count))]
        columns = _columns(coefficients, j, n)
        terms = [_terms(operands, row, n, columns, exact, w) for row, w in places]
        pairs = zip(_chain(terms[::2]), _chain(terms[1::2]), strict=True)
        _add(s1, s2, j, *(one + other for one, other in pairs))

    return add_rows


def make_add_few(exact):
    def add_few(operands, o, coefficients, s1, s2, j, w, distance, w_distance, count):
        n, rows = _lanes(operands.x), map(np.uintp, range(int(count)))
        places = [(o + j + k * distance, w + k * w_distance) for k in rows]
        if places:
            columns = _columns(coefficients, j, n)
            terms = [_terms(operands, row, n, columns, exact, w) for row, w in places]
            _add(s1, s2, j, *_chain(terms))

    return add_few


def runs_at_once(operands):
    return np.uintp(INTERLEAVED if operands.dy is None else INTERLEAVED_BOTH)


def lanes_of(described):
    if isinstance(described, tuple):
        described = next(each for each in described if isinstance(each, np.ndarray))
    return np.uintp(_lanes(described))


def make_add_exactly(size=VECTOR_BYTES):
    def add_exactly(operands, o, coefficients, s1, s2, j, w):
        n = _lanes(operands.x, size)
        terms = _terms(operands, o + j, n, _columns(coefficients, j, n), True, w)
        _add(s1, s2, j, *_chain([terms]))

    return add_exactly


class _RunSum:
    """The sums of `simd.RunSum`, of the same terms in the same lanes."""

    def __init__(self, operands, coefficients, exact=False):
        self.operands, self.coefficients, self.exact = operands, coefficients, exact
        self.lanes = _lanes(operands.x)
        self.totals = np.zeros((2, self.lanes // 2))

    def terms(self, o, w, done=0, through=None):
        """A vector's terms; 0 in lanes that are done, or behind so many."""
        lane = np.arange(self.lanes)
        new = (lane >= done) & (lane < (self.lanes if through is None else through))
        terms = _terms(self.operands, o, self.lanes, self.coefficients, self.exact, w)
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
    def sum_run(operands, o, n, distance, coefficients, w, w_distance, count):
        run = _RunSum(operands, coefficients, exact)
        for k in range(int(count)):
            _add_run(run, int(o) + k * int(distance), int(w) + k * int(w_distance), int(n))
        return run.results()

    return sum_run


def _add_run(run, o, w, n):
    """Add one run to the totals, in chains."""
    vectors, rest = divmod(n, run.lanes)
    places = [(o + k * run.lanes, w + k * run.lanes) for k in range(vectors)]
    whole = vectors - vectors % UNROLL
    chains = [[] for _ in range(UNROLL)]
    for k, place in enumerate(places[:whole]):
        chains[k % UNROLL].append(run.terms(*place))
        if (k + 1) % (UNROLL * CHAIN) == 0:
            run.add(*chains)
            chains = [[] for _ in range(UNROLL)]
    chains[0] += [run.terms(*place) for place in places[whole:]]
    if rest:
        last = run.operands.x.size - run.lanes
        start = o + n - run.lanes if vectors else min(o, last)
        done = o + n - rest - start
        chains[0].append(run.terms(start, w + start - o, done, done + rest))
    run.add(*chains)


def sum_interleaved(operands, o, n, distance, coefficients, w, w_distance):
    run, n = _RunSum(operands, coefficients), int(n)
    starts = [
        (int(o) + k * int(distance), int(w) + k * int(w_distance))
        for k in range(int(runs_at_once(operands)))
    ]

    def column(at, done=0):
        return [run.terms(o + at, w + at, done) for o, w in starts]

    vectors, rest = divmod(n, run.lanes)
    columns = [column(k * run.lanes) for k in range(vectors)]
    whole = vectors - vectors % 2
    for k in range(0, whole, 2):
        run.add(*columns[k : k + 2])
    ends = [column(n - run.lanes, run.lanes - rest)] if rest else []
    for terms in columns[whole:] + ends:
        run.add(terms[::2], terms[1::2])
    return run.results()


def mean_near(operands, p, q):
    x = operands.x
    n = _lanes(x)

    def finite(value):
        return np.where(np.isfinite(value), value, value.dtype.type(0))

    first = finite(_load(x, p, 1))
    share = first.dtype.type(0.5 / n)
    one, other = (finite(_load(x, place, n) - first) for place in (p, q))
    total = multiply_add(other, share, one * share)
    while total.size > 1:
        total = _halves(total)
    return first[0] + total[0]


def value_at(operands, o):
    return _load(operands.x, o, 1)[0]


def weighted_by(operands, address, size, start, n):
    if operands.weights is None:
        return operands
    real = np.float64 if operands[0].dtype == np.float64 else np.float32
    room = array_at(address, size, real)
    return operands._replace(weights=span(room, start, n))


def copy_vector(out, x, j, i):
    _store(out, j, _load(x, i, _lanes(out)))


def spread_samples(out, x, j, i, channels):
    _store(out, j, np.repeat(_load(x, i, _lanes(out)), int(channels)))


def add_vector(sums, x, j, i):
    _store(sums, j, _load(sums, j, 8) + _load(x, i, 8))


def repeat(out, values, j, c):
    _store(out, j, np.repeat(_load(values, c, 1), _lanes(out)))


def make_take_root(size=VECTOR_BYTES):
    def take_root(x, j):
        _store(x, j, np.sqrt(_load(x, j, _lanes(x, size))))

    return take_root


def fence():
    """Plain Python has no non-temporal stores to order."""
