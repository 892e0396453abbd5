"""Arithmetic for channels first to last, in float64: merging partial sums, coefficients of a write.

Statistics are sums of d and d^2, where d = x - shift with one shift a channel (Chan, Golub &
LeVeque 1983): they merge by addition, exactly as far as float64 goes, and only the end adds the
shift. Merging rounded means costs hundreds of ulp of variance when the mean is 10,000 times the
deviation.
"""

import numpy as np

from .._runtime.jit import apart, array_at, inlined, inner, record_at, span
from . import columns
from .abi import STEPS
from .simd import (
    EIGHT,
    FIVE,
    FOUR,
    ONE,
    SEVEN,
    SIX,
    THREE,
    TWO,
    ZERO,
    lanes_of,
    mean_near,
    take_root,
    take_root_one,
    value_at,
)

# Squares of float32 below 2^-126 lose digits, below 2^-149 they vanish; their mean must be so far
# above that what is lost is nothing.
TINY = 2.0**-100
# Of so few values, rounding errors do not average out: their shift must lie nearer to their mean.
FEW_VALUES = 1024.0


@inner
def statistics(context, plan):
    """mean, m2 and invstd."""
    c = plan.channels
    stats = array_at(context.stats, (TWO + ONE) * c, np.float64)
    return span(stats, ZERO, c), span(stats, c, c), span(stats, TWO * c, c)


@inner
def rounded_off(context, plan):
    """What was rounded off the mean."""
    c = plan.channels
    return span(array_at(context.stats, FOUR * c, np.float64), THREE * c, c)


@inner
def _rest(total, a, b):
    """What was rounded off ``total = a + b`` (Knuth), 0 where that is not finite."""
    part = total - a
    rest = (a - (total - part)) + (b - part)
    return rest if np.isfinite(rest) else 0.0


@inner
def _step(operands, o, k):
    """The way from one value to another, 0 if it is not finite."""
    step = np.float64(value_at(operands, k)) - np.float64(value_at(operands, o))
    return step if np.isfinite(step) else 0.0


@inner
def _from_first(operands, o, total):
    first = np.float64(value_at(operands, o))
    return (first if np.isfinite(first) else 0.0) + total


@inner
def _place(plan, k, parts, width):
    """Where the k-th of so many parts of a channel begins, with room for ``width`` values."""
    n, c, run = plan.samples, plan.channels, plan.run
    return n * k // parts * c * run + min(run * k // parts, run - width)


@inlined
def shift_near(context, plan, real, operands, first, last):
    """Shift by the mean of a few values spread over each channel, to the data's precision.

    Near the mean, and exact for a constant channel: the squared distance of shift and mean, in
    variances, is the factor by which rounding errors grow. Of runs two vectors, of short runs four
    values, of columns eight.
    """
    run, lanes = plan.run, lanes_of(operands)
    shift = array_at(context.shift, plan.channels, real)
    if run >= lanes:
        p, q = _place(plan, ONE, FOUR, lanes), _place(plan, THREE, FOUR, lanes)
        for j in range(first, last):
            shift[j] = mean_near(operands, p + j * run, q + j * run)
        return
    p, q = _place(plan, TWO, EIGHT, ONE), _place(plan, FOUR, EIGHT, ONE)
    r = _place(plan, SIX, EIGHT, ONE)
    if run > ONE:
        for j in range(first, last):
            o = j * run
            total = _step(operands, o, o + p) + _step(operands, o, o + q)
            total += _step(operands, o, o + r)
            shift[j] = _from_first(operands, o, total * 0.25)
        return
    a, b = _place(plan, ONE, EIGHT, ONE), _place(plan, THREE, EIGHT, ONE)
    c, d = _place(plan, FIVE, EIGHT, ONE), _place(plan, SEVEN, EIGHT, ONE)
    for j in range(first, last):
        total = _step(operands, j, j + p) + _step(operands, j, j + q) + _step(operands, j, j + r)
        more = _step(operands, j, j + a) + _step(operands, j, j + b) + _step(operands, j, j + c)
        total += more + _step(operands, j, j + d)
        shift[j] = _from_first(operands, j, total * 0.125)


@inlined
def shift_among_weighted(context, plan, real, operands, first, last):
    """Shift by the mean of eight values that have a weight: see `shift_near`."""
    shift = array_at(context.shift, plan.channels, real)
    places = array_at(context.places, EIGHT, np.uintp)
    for j in range(first, last):
        o, total = places[ZERO] + j * plan.run, 0.0
        for k in range(ONE, EIGHT):
            total += _step(operands, o, places[k] + j * plan.run)
        shift[j] = _from_first(operands, o, total * 0.125)


@inlined
def shift_to_mean(context, plan, real, first, last):
    """Shift by each channel's mean, to the data's precision.

    Not where it is infinite: infinity minus infinity would be NaN in a channel that is fine.
    """
    shift, mean = array_at(context.shift, plan.channels, real), statistics(context, plan)[0]
    for j in range(first, last):
        shift[j] = mean[j]
        if not np.isfinite(shift[j]):
            shift[j] = 0.0


@inner
def _add(out, values):
    for j in range(np.uintp(out.size)):
        out[j] += values[j]


@apart
def _merge(plan, partial_sums, first, last):
    """Add up the partial sums, in order, into part 0."""
    c, parts = plan.channels, plan.parts
    for start in (ZERO, parts * c):
        total = span(partial_sums, start + first, last - first)
        for part in range(ONE, parts):
            # As spans, for the compiler to see that they do not overlap: 5 times as fast
            # (AMD EPYC, 2026-11).
            _add(total, span(partial_sums, start + part * c + first, last - first))


@inlined
def merge_moments(context, plan, real, exact, first, last):
    """The mean and sum of squared deviations; if ``exact``, of channels that need float64 only.

    Returns whether any needs it: its shift lay far from its mean, or float32 could not hold its
    squares.
    """
    c, parts = plan.channels, plan.parts
    partial_sums = array_at(context.partial_sums, TWO * parts * c, np.float64)
    needs_float64 = array_at(context.needs_float64, c, np.float64)
    shift, (mean, m2, _) = array_at(context.shift, c, real), statistics(context, plan)
    low = rounded_off(context, plan)
    _merge(plan, partial_sums, first, last)
    n = context.total
    far = 4.0 if shift.itemsize == 8 else 2.0 if n < FEW_VALUES else 16.0
    for j in range(first, last):
        if exact and needs_float64[j] == 0.0:
            continue
        s1, s2 = partial_sums[j], partial_sums[parts * c + j]
        d = s1 / n
        mean[j] = shift[j] + d
        low[j] = _rest(mean[j], np.float64(shift[j]), d)
        # A comparison with NaN is false: it stays, and is never negative by rounding.
        squares = s2 - s1 * d
        m2[j] = 0.0 if squares < 0.0 else squares
        bad = s1 * d > far * squares
        if shift.itemsize == 4:
            bad = bad or s2 <= TINY * n or not s2 < np.inf
        needs_float64[j] = 1.0 if bad else 0.0
    return columns.any_of(needs_float64, first, last)


@inlined
def merge_gradients(context, plan, real, exact, first, last):
    """dweight, dbias and the sums behind them; if ``exact``, of channels that need float64 only.

    Returns whether any needs it: float32 could not hold its products.
    """
    c, parts = plan.channels, plan.parts
    partial_sums = array_at(context.partial_sums, TWO * parts * c, np.float64)
    needs_float64 = array_at(context.needs_float64, c, np.float64)
    sums = array_at(context.sums, TWO * c, np.float64)
    shift, (mean, _, invstd) = array_at(context.shift, c, real), statistics(context, plan)
    dweight, dbias = array_at(context.dweight, c, real), array_at(context.dbias, c, real)
    low = rounded_off(context, plan)
    _merge(plan, partial_sums, first, last)
    n = context.total
    for j in range(first, last):
        if exact and needs_float64[j] == 0.0:
            continue
        s1, s2 = partial_sums[j], partial_sums[parts * c + j]
        # Where both are 0, so is dy: below a dead unit, for example.
        tiny = abs(s2) <= TINY * n and (s1 != 0.0 or s2 != 0.0)
        bad = shift.itemsize == 4 and (tiny or not (abs(s1) < np.inf and abs(s2) < np.inf))
        needs_float64[j] = 1.0 if bad else 0.0
        s2 += ((shift[j] - mean[j]) - low[j]) * s1
        sums[j], sums[c + j] = s1, s2
        dweight[j] = s2 * invstd[j]
        dbias[j] = s1
    return columns.any_of(needs_float64, first, last)


@inlined
def invert_deviations(context, plan, first, last):
    """1 / sqrt(var + eps); 0 where both are 0, so that a constant channel gives its bias."""
    count, eps, (_, m2, invstd) = context.count, context.eps, statistics(context, plan)
    for j in range(first, last):
        invstd[j] = m2[j] / count + eps
    lanes = lanes_of(invstd)
    whole = first + (last - first) // lanes * lanes
    for j in range(first, whole, lanes):
        take_root(invstd, j)
    for j in range(whole, last):
        take_root_one(invstd, j)
    for j in range(first, last):
        invstd[j] = 0.0 if invstd[j] == 0.0 else 1.0 / invstd[j]


@inlined
def forward_coefficients(context, plan, real, scale_at, offset_at, first, last):
    """center, scale and offset of ``y = (x - center) * scale + offset``.

    The center is the mean rounded to the data's precision, the offset takes up what was rounded
    off, by float64 as well: with |mean| much larger than the deviation, x - center is exact, where
    x * scale + offset loses thousands of ulp.
    """
    c, (mean, _, invstd) = plan.channels, statistics(context, plan)
    weight, bias = array_at(context.weight, c, real), array_at(context.bias, c, real)
    center, scale = array_at(context.center, c, real), array_at(scale_at, c, real)
    offset, low = array_at(offset_at, c, real), rounded_off(context, plan)
    for j in range(first, last):
        factor = weight[j] * invstd[j]
        center[j] = mean[j]
        scale[j] = factor
        offset[j] = bias[j] + ((np.float64(center[j]) - mean[j]) - low[j]) * factor


@inlined
def backward_coefficients(context, plan, real, first, last):
    """Coefficients of ``dx = (dy + (x - center) * scale + offset) * gain``.

    dx = weight * invstd * (dy - mean(dy) - (x - mean) * invstd^2 * mean(dy * (x - mean))) (Ioffe &
    Szegedy 2015, section 3); weight * invstd is kept outside, so that data near 1e30 neither
    overflows nor vanishes. With fixed statistics there is only the gain.
    """
    c, (mean, _, invstd) = plan.channels, statistics(context, plan)
    weight, sums = array_at(context.weight, c, real), array_at(context.sums, TWO * c, np.float64)
    center, scale = array_at(context.center, c, real), array_at(context.scale, c, real)
    offset, gain = array_at(context.offset, c, real), array_at(context.gain, c, real)
    fixed, n = record_at(context.steps, STEPS).fixed != ZERO, context.total
    low = rounded_off(context, plan)
    for j in range(first, last):
        gain[j] = weight[j] * invstd[j]
        if not fixed:
            slope = -invstd[j] * (invstd[j] * (sums[c + j] / n))
            center[j] = mean[j]
            scale[j] = slope
            gap = (np.float64(center[j]) - mean[j]) - low[j]
            offset[j] = gap * slope - sums[j] / n


@apart
def _widen(narrow, address, plan, real, out, first, last):
    """Repeat the coefficients of some channels along their columns of a wide row.

    Those of all channels along the vector behind the row, too, which a slab's vectors never reach.
    """
    (begin, size), run = columns.in_row(plan, out), plan.run
    row = span(array_at(address, begin + size, real), begin, size)
    values = array_at(narrow, plan.channels, real)
    start, n = first * run, (last - first) * run
    if n == plan.channels * run:
        n = np.uintp(row.size)
    columns.expand(values, first, run, n, span(row, start, n))


@inlined
def widen(context, plan, real, out, with_gain, with_level, first, last):
    """Make the coefficients ready for `columns.write`."""
    if plan.write_by_rows == ZERO:
        _widen(context.center, context.wide_center, plan, real, out, first, last)
        _widen(context.scale, context.wide_scale, plan, real, out, first, last)
        _widen(context.offset, context.wide_offset, plan, real, out, first, last)
        if with_gain:
            _widen(context.gain, context.wide_gain, plan, real, out, first, last)
        if with_level:
            _widen(context.factor, context.wide_factor, plan, real, out, first, last)
            _widen(context.level, context.wide_level, plan, real, out, first, last)


@inlined
def plain(context, plan, real, first, last):
    """Make every NaN among the coefficients one that is rounded to a NaN of bfloat16.

    Those of x and dy are such: their last digits are 0.
    """
    for address in (context.center, context.scale, context.offset, context.gain):
        values = array_at(address, plan.channels, real)
        for j in range(first, last):
            if np.isnan(values[j]):
                values[j] = np.nan
