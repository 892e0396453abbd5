"""Arithmetic per channel, in float64: merging partial sums, and the coefficients of a write.

Statistics are sums of d and d^2 around one shift a channel (Chan, Golub & LeVeque 1983): they
merge by addition, exactly as far as float64 goes, and only the end adds the shift: merging rounded
means costs hundreds of ulp of variance when the mean is 10,000 times the deviation.
"""

import numpy as np

from . import _plan
from ._columns import expand
from ._jit import block
from ._runs import EIGHT, FOUR, ONE, ZERO, aligned


@block
def shift_near(plan, x, work):
    """Shift by each channel's first value: near the data, and exact for a constant channel.

    For float64, whose last digits feel a shift of a few deviations, by the mean of eight values
    spread over the data.
    """
    n, c, run = plan[_plan.N], plan[_plan.C], plan[_plan.L]
    shift = work[plan[_plan.SHIFT] : plan[_plan.SHIFT] + c]
    for j in range(c):
        first = np.float64(x[j * run])
        shift[j] = first if np.isfinite(first) else 0.0
    if x.itemsize == 8:
        for k in range(ONE, EIGHT):
            o = n * k // EIGHT * c * run + run * k // EIGHT
            for j in range(c):
                step = (np.float64(x[o + j * run]) - np.float64(x[j * run])) * 0.125
                shift[j] += step if np.isfinite(step) else 0.0


@block
def shift_to_mean(plan, mean, work):
    """Shift by each channel's mean."""
    for j in range(plan[_plan.C]):
        work[plan[_plan.SHIFT] + j] = mean[j]


@block
def recentre(plan, mean, work):
    """`shift_to_mean` for data: infinity minus infinity would be NaN in a channel that is fine."""
    for j in range(plan[_plan.C]):
        if np.isfinite(mean[j]):
            work[plan[_plan.SHIFT] + j] = mean[j]


@block
def _add(out, values):
    for j in range(np.uintp(out.size)):
        out[j] += values[j]


@block
def _merge(plan, first, last, work):
    """Add up the partial sums of channels first..last, in order, into part 0."""
    c, parts = plan[_plan.C], plan[_plan.PARTS]
    for start in (ZERO, parts * c):
        total = work[start + first : start + last]
        for part in range(ONE, parts):
            # As slices, for the compiler to see that they do not overlap: 5 times as fast.
            _add(total, work[start + part * c + first : start + part * c + last])


@block
def merge_moments(t, threads, plan, x, work, mean, m2):
    """The mean and sum of squared deviations of the t-th share of the channels.

    Returns whether a shift lay so far from its mean that digits were lost (an outlier came first):
    its squared distance, in variances, is the factor by which rounding errors of m2 grow.
    """
    c, parts, shift = plan[_plan.C], plan[_plan.PARTS], plan[_plan.SHIFT]
    first, last = c * t // threads, c * (t + ONE) // threads
    _merge(plan, first, last, work)
    n = np.float64(plan[_plan.N] * plan[_plan.L])
    limit = 65536.0 if x.itemsize == 4 else 4.0
    far = False
    for j in range(first, last):
        s1, s2 = work[j], work[parts * c + j]
        d = s1 / n
        mean[j] = work[shift + j] + d
        # A comparison with NaN is false: it stays, and is never negative by rounding.
        squares = s2 - s1 * d
        m2[j] = 0.0 if squares < 0.0 else squares
        far = far or s1 * d > limit * squares
    return far


@block
def merge_gradients(t, threads, plan, work, invstd, dweight, dbias):
    """dweight and dbias of the t-th share of the channels; the sums stay in part 0."""
    c, parts = plan[_plan.C], plan[_plan.PARTS]
    first, last = c * t // threads, c * (t + ONE) // threads
    _merge(plan, first, last, work)
    for j in range(first, last):
        dweight[j] = work[parts * c + j] * invstd[j]
        dbias[j] = work[j]


@block
def invert_deviations(count, eps, m2, invstd):
    """1 / sqrt(var + eps); 0 where both are 0, so that a constant channel gives its bias."""
    for j in range(np.uintp(invstd.size)):
        var = m2[j] / count + eps
        invstd[j] = 0.0 if var == 0.0 else 1.0 / np.sqrt(var)


@block
def _coefficients(plan, like):
    """Room for four vectors of one coefficient a channel."""
    room = max(plan[_plan.C], plan[_plan.WRITE_ROOM])
    return aligned(FOUR * room, like).reshape(4, np.intp(room))


@block
def _widen(plan, channels):
    """The coefficients as wide as a row that `_columns.write` sees at once."""
    c, wide = plan[_plan.C], plan[_plan.WRITE_WIDTH]
    if wide == c:
        return channels
    out = _coefficients(plan, channels)
    for k in range(4):
        expand(channels[k, :c], ZERO, plan[_plan.L], wide, out[k])
    return out


@block
def forward_coefficients(plan, x, weight, bias, mean, invstd):
    """m, b, c of ``y = (x - m) * b + c``.

    m is the mean rounded to the data's precision, c takes up what was rounded off: with |mean|
    much larger than the deviation, x - m is exact, where x * b + c loses thousands of ulp.
    """
    out = _coefficients(plan, x)
    for j in range(plan[_plan.C]):
        scale = weight[j] * invstd[j]
        out[0, j] = mean[j]
        out[1, j] = scale
        out[2, j] = bias[j] + (np.float64(out[0, j]) - mean[j]) * scale
    return _widen(plan, out)


@block
def backward_coefficients(plan, fixed, x, weight, mean, invstd, work):
    """m, b, c, a of ``dx = (dy + (x - m) * b + c) * a`` (Ioffe & Szegedy 2015, section 3).

    dx = weight * invstd * (dy - mean(dy) - (x - mean) * invstd^2 * mean(dy * (x - mean))); the
    factor is kept outside, so that data near 1e30 neither overflows nor vanishes.
    """
    second = plan[_plan.PARTS] * plan[_plan.C]
    n = np.float64(plan[_plan.N] * plan[_plan.L])
    out = _coefficients(plan, x)
    for j in range(plan[_plan.C]):
        out[3, j] = weight[j] * invstd[j]
        if not fixed:
            slope = -invstd[j] * (invstd[j] * (work[second + j] / n))
            out[0, j] = mean[j]
            out[1, j] = slope
            out[2, j] = (np.float64(out[0, j]) - mean[j]) * slope - work[j] / n
    return _widen(plan, out)
