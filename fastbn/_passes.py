"""The two entries into compiled code: a forward and a backward pass, whole or in part.

``stats`` holds three float64 vectors a channel: mean, m2 (the sum of squared deviations) and
invstd. Loops over ``t`` run one share of the blocks a thread; whatever is allocated is allocated
outside of them, because an error inside would be lost.
"""

import numpy as np
from numba import prange

from . import _channels, _columns, _plan, _rows
from ._jit import block, kernel
from ._runs import ONE, THREE, ZERO, aligned

# What a pass has to do, as a sum of these.
REDUCE, WRITE, FIXED = 1, 2, 4


@block
def _workspace(threads, plan, stats):
    """Partial sums, a shift a channel, and three vectors a tile for each thread's columns."""
    return aligned(plan[_plan.SCRATCH] + THREE * plan[_plan.TILE_ROOM] * threads, stats)


@block
def _few(plan):
    """Whether one thread merges the partial sums sooner than a team starts."""
    return plan[_plan.PARTS] * plan[_plan.C] <= np.uintp(8192)


@block
def _reduce(t, threads, plan, x, dy, work):
    if plan[_plan.REDUCE_BY_ROWS] != ZERO:
        _rows.reduce(t, threads, plan, x, dy, work)
    else:
        _columns.reduce(t, threads, plan, x, dy, work)


@block
def _write(t, threads, plan, x, dy, out, coefficients):
    if plan[_plan.WRITE_BY_ROWS] != ZERO:
        _rows.write(t, threads, plan, x, dy, out, coefficients)
    else:
        _columns.write(t, threads, plan, x, dy, out, coefficients)


@kernel
def forward(team, plan, task, x, out, weight, bias, stats, count, eps):
    """REDUCE: mean and m2 of x into `stats`. WRITE: invstd too, and the normalised x into `out`.

    Without REDUCE, mean and m2 are read from `stats` and the variance is m2 / count.
    """
    threads, channels = np.uintp(team), plan[_plan.C]
    mean, m2 = stats[:channels], stats[channels : channels + channels]
    invstd = stats[channels + channels :]
    if task & REDUCE:
        work = _workspace(threads, plan, stats)
        far = np.zeros(team, np.bool_)
        _channels.shift_near(plan, x, work)
        for attempt in range(2):
            for t in prange(team):
                _reduce(np.uintp(t), threads, plan, x, None, work)
            if _few(plan):
                far[0] = _channels.merge_moments(ZERO, ONE, plan, x, work, mean, m2)
            else:
                for t in prange(team):
                    far[t] = _channels.merge_moments(np.uintp(t), threads, plan, x, work, mean, m2)
            if attempt == 1 or not far.any():
                break
            _channels.recentre(plan, mean, work)
    if task & WRITE:
        _channels.invert_deviations(count, eps, m2, invstd)
        coefficients = _channels.forward_coefficients(plan, x, weight, bias, mean, invstd)
        for t in prange(team):
            _write(np.uintp(t), threads, plan, x, None, out, coefficients)


@kernel
def backward(team, plan, task, x, dy, out, weight, stats, dweight, dbias):
    """REDUCE: dweight and dbias. WRITE: dx into `out`, which needs REDUCE unless FIXED.

    FIXED treats the statistics as constants.
    """
    threads, channels = np.uintp(team), plan[_plan.C]
    mean, invstd = stats[:channels], stats[channels + channels :]
    work = _workspace(threads, plan, stats)
    if task & REDUCE:
        _channels.shift_to_mean(plan, mean, work)
        for t in prange(team):
            _reduce(np.uintp(t), threads, plan, x, dy, work)
        if _few(plan):
            _channels.merge_gradients(ZERO, ONE, plan, work, invstd, dweight, dbias)
        else:
            for t in prange(team):
                _channels.merge_gradients(np.uintp(t), threads, plan, work, invstd, dweight, dbias)
    if task & WRITE:
        coefficients = _channels.backward_coefficients(
            plan, task & FIXED, x, weight, mean, invstd, work
        )
        if task & FIXED:
            for t in prange(team):
                _write(np.uintp(t), threads, plan, None, dy, out, coefficients)
        else:
            for t in prange(team):
                _write(np.uintp(t), threads, plan, x, dy, out, coefficients)
