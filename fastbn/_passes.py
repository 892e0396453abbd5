"""The two entries into compiled code: a forward and a backward pass, whole or in part.

``stats`` holds three float64 vectors a channel: mean, m2 (the sum of squared deviations) and
invstd. Loops over ``t`` run one share of the blocks a thread; whatever is allocated is allocated
outside of them, because an error inside would be lost.

The whole tensor is reduced, then written. Taking it a slab of channels at a time, so that the
second walk finds in the last-level cache what the first has read, gains nothing from 2 to 24 MB a
slab: streaming stores bound the second walk wherever it reads from (103 MB, microseconds: read
1502, streaming copy 2455, slabs of 8 MB 4002).
"""

import numpy as np
from numba import prange

from . import _channels, _columns, _plan, _rows
from ._jit import glue, kernel, small_kernel
from ._runs import ZERO

# What a pass has to do, as a sum of these.
REDUCE, WRITE, FIXED = 1, 2, 4


@glue
def _reduce(t, threads, plan, exact, x, dy, work, values):
    if plan[_plan.REDUCE_BY_ROWS] != ZERO:
        _rows.reduce(t, threads, plan, exact, x, dy, work)
    else:
        _columns.reduce(t, threads, plan, exact, x, dy, work, values)


@glue
def _write(t, threads, plan, x, dy, out, values):
    if plan[_plan.WRITE_BY_ROWS] != ZERO:
        _rows.write(t, threads, plan, x, dy, out, values)
    else:
        _columns.write(t, threads, plan, x, dy, out, values)


@kernel
def forward(team, plan, work, values, task, x, out, weight, bias, stats, count, eps):
    """REDUCE: mean and m2 of x into `stats`. WRITE: invstd too, and the normalised x into `out`.

    Without REDUCE, mean and m2 are read from `stats` and the variance is m2 / count.
    """
    threads, channels = np.uintp(team), plan[_plan.C]
    mean, m2 = stats[:channels], stats[channels : channels + channels]
    invstd = stats[channels + channels :]
    if task & REDUCE:
        _channels.shift_near(plan, x, work)
        for exact in range(2):
            for t in prange(team):
                _reduce(np.uintp(t), threads, plan, exact, x, None, work, values)
            if not _channels.merge_moments(plan, exact, x, work, mean, m2):
                break
            _channels.shift_to(plan, x, mean, work)
    if task & WRITE:
        _channels.invert_deviations(count, eps, m2, invstd)
        _channels.forward_coefficients(plan, out, weight, bias, mean, invstd, values)
        for t in prange(team):
            _write(np.uintp(t), threads, plan, x, None, out, values)


@kernel
def backward(team, plan, work, values, task, x, dy, out, weight, stats, dweight, dbias):
    """REDUCE: dweight and dbias. WRITE: dx into `out`, which needs REDUCE unless FIXED.

    FIXED treats the statistics as constants.
    """
    threads, channels, fixed = np.uintp(team), plan[_plan.C], task & FIXED
    mean, invstd = stats[:channels], stats[channels + channels :]
    if task & REDUCE:
        _channels.shift_to(plan, x, mean, work)
        for exact in range(2):
            for t in prange(team):
                _reduce(np.uintp(t), threads, plan, exact, x, dy, work, values)
            if not _channels.merge_gradients(plan, exact, x, work, mean, invstd, dweight, dbias):
                break
    if task & WRITE:
        _channels.backward_coefficients(plan, fixed, out, weight, mean, invstd, work, values)
        for t in prange(team):
            if fixed:
                _write(np.uintp(t), threads, plan, None, dy, out, values)
            else:
                _write(np.uintp(t), threads, plan, x, dy, out, values)


@small_kernel
def move(running_mean, running_var, mean, m2, divisor, momentum):
    """``running = (1 - momentum) * running + momentum * batch``, in float64."""
    for j in range(np.uintp(mean.size)):
        running_mean[j] = running_mean[j] * (1.0 - momentum) + momentum * mean[j]
    for j in range(np.uintp(m2.size)):
        running_var[j] = running_var[j] * (1.0 - momentum) + momentum * (m2[j] / divisor)
