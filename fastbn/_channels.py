"""Arithmetic for channels first to last, in float64: merging partial sums, coefficients of a write.

Statistics are sums of d and d^2 around one shift a channel (Chan, Golub & LeVeque 1983): they
merge by addition, exactly as far as float64 goes, and only the end adds the shift: merging rounded
means costs hundreds of ulp of variance when the mean is 10,000 times the deviation.
"""

import numpy as np

from . import _columns, _plan
from ._jit import block, glue, span
from ._runs import EIGHT, FOUR, ONE, SIXTEEN, THREE, TWO, ZERO

# Squares of float32 below 2^-126 lose digits, below 2^-149 they vanish; their mean must be so far
# above that what is lost is nothing.
TINY = 2.0**-100
# Of so few values, rounding errors do not average out: their shift must lie nearer to their mean.
FEW_VALUES = np.uintp(1024)


@glue
def shift_near(plan, x, work, shift, first, last):
    """Shift by the mean of a few values spread over each channel, to the data's precision.

    Near the mean, and exact for a constant channel: the squared distance of shift and mean, in
    variances, is the factor by which rounding errors grow.
    """
    n, c, run = plan[_plan.N], plan[_plan.C], plan[_plan.L]
    points = SIXTEEN if n * run < FEW_VALUES else EIGHT if x.itemsize == 8 else FOUR
    near, share = span(work, ZERO, c), 1.0 / np.float64(points)  # there are no sums in work yet
    for j in range(first, last):
        value = np.float64(x[j * run])
        near[j] = value if np.isfinite(value) else 0.0
    for k in range(ONE, points):
        o = n * k // points * c * run + run * k // points
        for j in range(first, last):
            step = (np.float64(x[o + j * run]) - np.float64(x[j * run])) * share
            near[j] += step if np.isfinite(step) else 0.0
    for j in range(first, last):
        shift[j] = near[j]


@glue
def shift_to(mean, shift, first, last):
    """Shift by each channel's mean, to the data's precision.

    Not where it is infinite: infinity minus infinity would be NaN in a channel that is fine.
    """
    for j in range(first, last):
        shift[j] = mean[j]
        if not np.isfinite(shift[j]):
            shift[j] = 0.0


@block
def _add(out, values):
    for j in range(np.uintp(out.size)):
        out[j] += values[j]


@block
def _merge(plan, work, first, last):
    """Add up the partial sums, in order, into part 0."""
    c, parts = plan[_plan.C], plan[_plan.PARTS]
    for start in (ZERO, parts * c):
        total = span(work, start + first, last - first)
        for part in range(ONE, parts):
            # As spans, for the compiler to see that they do not overlap: 5 times as fast.
            _add(total, span(work, start + part * c + first, last - first))


@glue
def merge_moments(plan, exact, work, shift, mean, m2, first, last):
    """The mean and sum of squared deviations; once more, ``exact``, of channels that were lost.

    Returns whether any is: its shift lay far from its mean, or float32 could not hold its squares.
    """
    c, parts = plan[_plan.C], plan[_plan.PARTS]
    _merge(plan, work, first, last)
    n = np.float64(plan[_plan.N] * plan[_plan.L])
    far = 4.0 if shift.itemsize == 8 else 2.0 if n < np.float64(FEW_VALUES) else 16.0
    lost = span(work, plan[_plan.LOST], c)
    again = False
    for j in range(first, last):
        if exact and lost[j] == 0.0:
            continue
        s1, s2 = work[j], work[parts * c + j]
        d = s1 / n
        mean[j] = shift[j] + d
        # A comparison with NaN is false: it stays, and is never negative by rounding.
        squares = s2 - s1 * d
        m2[j] = 0.0 if squares < 0.0 else squares
        bad = s1 * d > far * squares
        if shift.itemsize == 4:
            bad = bad or s2 <= TINY * n or not s2 < np.inf
        lost[j] = 1.0 if bad else 0.0
        again = again or bad
    return again


@glue
def merge_gradients(plan, exact, work, shift, mean, invstd, dweight, dbias, first, last):
    """dweight, dbias and the sums behind them; once more, ``exact``, of channels that were lost.

    Returns whether any is: float32 could not hold its products.
    """
    c, parts, sums = plan[_plan.C], plan[_plan.PARTS], plan[_plan.SUMS]
    _merge(plan, work, first, last)
    n = np.float64(plan[_plan.N] * plan[_plan.L])
    lost = span(work, plan[_plan.LOST], c)
    again = False
    for j in range(first, last):
        if exact and lost[j] == 0.0:
            continue
        s1, s2 = work[j], work[parts * c + j]
        # Where both are 0, so is dy: below a dead unit, for example.
        tiny = abs(s2) <= TINY * n and (s1 != 0.0 or s2 != 0.0)
        bad = shift.itemsize == 4 and (tiny or not (abs(s1) < np.inf and abs(s2) < np.inf))
        lost[j] = 1.0 if bad else 0.0
        again = again or bad
        s2 += (shift[j] - mean[j]) * s1
        work[sums + j], work[sums + c + j] = s1, s2
        dweight[j] = s2 * invstd[j]
        dbias[j] = s1
    return again


@glue
def invert_deviations(count, eps, m2, invstd, first, last):
    """1 / sqrt(var + eps); 0 where both are 0, so that a constant channel gives its bias."""
    for j in range(first, last):
        var = m2[j] / count + eps
        invstd[j] = 0.0 if var == 0.0 else 1.0 / np.sqrt(var)


@glue
def widen(plan, count, target, values):
    """Repeat the first coefficients along a wide row, and a vector beyond, for `_columns.write`."""
    if plan[_plan.WRITE_BY_ROWS] == ZERO:
        c, room, run = plan[_plan.C], plan[_plan.ROOM], plan[_plan.L]
        for k in range(count):
            wide = _columns.coefficients(plan, k, target, values)
            channels = span(values, k * room, c)
            _columns.expand(channels, ZERO, run, np.uintp(wide.size), wide)


@glue
def forward_coefficients(plan, weight, bias, mean, invstd, values, first, last):
    """m, b, c of ``y = (x - m) * b + c``.

    m is the mean rounded to the data's precision, c takes up what was rounded off: with |mean|
    much larger than the deviation, x - m is exact, where x * b + c loses thousands of ulp.
    """
    room = plan[_plan.ROOM]
    for j in range(first, last):
        scale = weight[j] * invstd[j]
        values[j] = mean[j]
        values[room + j] = scale
        values[TWO * room + j] = bias[j] + (np.float64(values[j]) - mean[j]) * scale


@glue
def backward_coefficients(plan, fixed, weight, mean, invstd, work, values, first, last):
    """m, b, c, a of ``dx = (dy + (x - m) * b + c) * a`` (Ioffe & Szegedy 2015, section 3).

    dx = weight * invstd * (dy - mean(dy) - (x - mean) * invstd^2 * mean(dy * (x - mean))); the
    factor is kept outside, so that data near 1e30 neither overflows nor vanishes.
    """
    room, sums = plan[_plan.ROOM], plan[_plan.SUMS]
    products = sums + plan[_plan.C]
    n = np.float64(plan[_plan.N] * plan[_plan.L])
    for j in range(first, last):
        values[THREE * room + j] = weight[j] * invstd[j]
        if not fixed:
            slope = -invstd[j] * (invstd[j] * (work[products + j] / n))
            values[j] = mean[j]
            values[room + j] = slope
            difference = np.float64(values[j]) - mean[j]
            values[TWO * room + j] = difference * slope - work[sums + j] / n
