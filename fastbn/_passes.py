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
from ._jit import block, kernel
from ._runs import ONE, ZERO, aligned

# What a pass has to do, as a sum of these.
REDUCE, WRITE, FIXED = 1, 2, 4


@block
def _workspace(threads, plan, stats):
    """Partial sums, three numbers a channel, and two vectors a tile for each thread's columns."""
    room = plan[_plan.TILE_ROOM]
    return aligned(plan[_plan.SCRATCH] + (room + room) * threads, stats)


@block
def _few(plan):
    """Whether one thread merges the partial sums sooner than a team starts."""
    return plan[_plan.PARTS] * plan[_plan.C] <= np.uintp(8192)


@block
def _share(t, threads, plan):
    """The t-th share of the channels."""
    return plan[_plan.C] * t // threads, plan[_plan.C] * (t + ONE) // threads


@block
def _reduce(t, threads, plan, exact, x, dy, work, shifts):
    if plan[_plan.REDUCE_BY_ROWS] != ZERO:
        _rows.reduce(t, threads, plan, exact, x, dy, work)
    else:
        _columns.reduce(t, threads, plan, exact, x, dy, work, shifts)


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
    work = _workspace(threads, plan, stats)
    shifts = aligned(plan[_plan.TILE_ROOM] * threads, x)
    alone = _few(plan)
    lost = np.zeros(channels, np.bool_)
    if task & REDUCE:
        for exact in range(2):
            if exact:
                _channels.shift_to(plan, x, mean, work)
            elif alone:
                _channels.shift_near(plan, ZERO, channels, x, work)
            else:
                for t in prange(team):
                    first, last = _share(np.uintp(t), threads, plan)
                    _channels.shift_near(plan, first, last, x, work)
            for t in prange(team):
                _reduce(np.uintp(t), threads, plan, exact, x, None, work, shifts)
            if alone:
                _channels.merge_moments(plan, ZERO, channels, exact, x, work, mean, m2, lost)
            else:
                for t in prange(team):
                    first, last = _share(np.uintp(t), threads, plan)
                    _channels.merge_moments(plan, first, last, exact, x, work, mean, m2, lost)
            if not lost.any():
                break
    if task & WRITE:
        _channels.invert_deviations(count, eps, m2, invstd)
        coefficients = _channels.forward_coefficients(plan, out, weight, bias, mean, invstd)
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
    shifts = aligned(plan[_plan.TILE_ROOM] * threads, x)
    lost = np.zeros(channels, np.bool_)
    if task & REDUCE:
        _channels.shift_to(plan, x, mean, work)
        for exact in range(2):
            for t in prange(team):
                _reduce(np.uintp(t), threads, plan, exact, x, dy, work, shifts)
            if _few(plan):
                _channels.merge_gradients(
                    plan, ZERO, channels, exact, x, work, mean, invstd, dweight, dbias, lost
                )
            else:
                for t in prange(team):
                    first, last = _share(np.uintp(t), threads, plan)
                    _channels.merge_gradients(
                        plan, first, last, exact, x, work, mean, invstd, dweight, dbias, lost
                    )
            if not lost.any():
                break
    if task & WRITE:
        coefficients = _channels.backward_coefficients(
            plan, task & FIXED, out, weight, mean, invstd, work
        )
        if task & FIXED:
            for t in prange(team):
                _write(np.uintp(t), threads, plan, None, dy, out, coefficients)
        else:
            for t in prange(team):
                _write(np.uintp(t), threads, plan, x, dy, out, coefficients)
