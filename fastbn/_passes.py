"""A forward and a backward pass, whole or in part, alone or by a team of threads.

``stats`` holds three float64 vectors a channel: mean, m2 (the sum of squared deviations) and
invstd. A pass is a walk over steps, compiled once for one thread and once for a team. Whatever is
allocated is allocated before: an error inside would be lost.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange

from . import _plan, _steps, _threads
from . import _workspace as _w
from ._jit import address_of, array_at, block, call_step, kernel, span
from ._runs import ONE, THREE, TWO, ZERO
from ._steps import FIXED, REDUCE, WRITE

# Stages of a pass, in this order, and where their steps are found; 0: not needed. FUSED, instead of
# all of them, holds how many groups of channels make a slab.
SHIFT, SUM, MERGE, PREPARE, WRITTEN, FUSED, DONE = range(7)
TEAM_CHANNELS = 2048  # from which it pays to launch a team for what is done per channel


@block
def _fused(t, team, steps, plan, context):
    """Sum and write the channels of a thread's share a slab at a time, while it is in the caches.

    Sketched as bare reads and copies of 103 MB: 8.6 ms instead of 10.3 for whole passes, backward
    13.1 instead of 16.8.
    """
    c, length, group = plan[_plan.C], plan[_plan.L], plan[_plan.CHANNELS]
    groups = (c + group - ONE) // group
    pieces = (length + plan[_plan.PIECE] - ONE) // plan[_plan.PIECE]
    start, stop = groups * t // team, groups * (t + ONE) // team
    slabs = (stop - start + steps[FUSED] - ONE) // steps[FUSED]
    for k in range(slabs):
        low = start + (stop - start) * k // slabs
        high = start + (stop - start) * (k + ONE) // slabs
        first, last = low * group, min(c, high * group)
        call_step(steps[SHIFT], t, ZERO, first, last, context)
        for exact in (ZERO, ONE):
            for row in range(ZERO, plan[_plan.PARTS] // pieces * groups, groups):
                blocks = (row + low) * pieces, (row + high) * pieces
                call_step(steps[SUM], t, exact, blocks[0], blocks[1], context)
            if call_step(steps[MERGE], t, exact, first, last, context) == 0:
                break
        call_step(steps[PREPARE], t, ZERO, first, last, context)
        for row in range(ZERO, plan[_plan.N] * c, c):
            values = (row + first) * length, (row + last) * length
            call_step(steps[WRITTEN], t, ZERO, values[0], values[1], context)


@block
def _share(t, team, exact, stage, steps, plan, words):
    """What a thread has to do at a stage."""
    c, context = plan[_plan.C], address_of(words)
    if stage == FUSED:
        _fused(t, team, steps, plan, context)
        return
    total = c
    if stage == SUM:
        total = plan[_plan.BLOCKS]
    elif stage == WRITTEN:
        total = plan[_plan.N] * c * plan[_plan.L]
    first, last = total * t // team, total * (t + ONE) // team
    if call_step(steps[stage], t, exact, first, last, context) != 0:
        words[_w.LOST] = ONE


def _run(threads, words):
    """Sum all blocks, and once more if need be; then write all values. Or do both slab by slab."""
    team = np.uintp(threads)
    plan = array_at(words[_w.PLAN], _plan.SIZE, np.uintp)
    steps = array_at(words[_w.STEPS], DONE, np.uintp)
    exact, stage = ZERO, FUSED if steps[FUSED] != 0 else SHIFT
    while stage != DONE:
        little = stage in (SHIFT, MERGE) and plan[_plan.C] < TEAM_CHANNELS
        if steps[stage] == 0:
            pass
        elif little or stage == PREPARE:
            _share(ZERO, ONE, exact, stage, steps, plan, words)
        else:
            for t in prange(threads):
                _share(np.uintp(t), team, exact, stage, steps, plan, words)
        if stage == MERGE and exact == ZERO and words[_w.LOST] != 0:
            exact, stage = ONE, SUM
        else:
            stage = DONE if stage >= WRITTEN else stage + 1


_alone, _team = block(_run), kernel(_run, parallel=True)


@block
def _complete(words, steps, x, out, weight, bias, stats, count, eps):
    words[_w.STEPS], words[_w.STATS], words[_w.LOST] = steps, address_of(stats), ZERO
    words[_w.X], words[_w.OUT] = address_of(x), address_of(out)
    words[_w.WEIGHT], words[_w.BIAS] = address_of(weight), address_of(bias)
    plan = array_at(words[_w.PLAN], _plan.SIZE, np.uintp)
    numbers = span(array_at(words[_w.WORK], ZERO, np.float64), plan[_plan.NUMBERS], TWO)
    numbers[ZERO], numbers[ONE] = count, eps


@kernel
def _start_forward(threads, words, steps, x, out, weight, bias, stats, count, eps):
    """Complete the context; run if there is but one thread."""
    _complete(words, steps, x, out, weight, bias, stats, count, eps)
    if threads == 1:
        _alone(threads, words)


@kernel
def _start_evaluation(threads, words, steps, x, out, weight, bias, mean, var, eps):
    """The same, of a forward pass with given statistics."""
    c = np.uintp(mean.size)
    stats = span(array_at(words[_w.WORK], ZERO, np.float64), ZERO, THREE * c)  # no sums are needed
    for j in range(c):
        stats[j], stats[c + j] = mean[j], var[j]
    _complete(words, steps, x, out, weight, bias, stats, 1.0, eps)
    if threads == 1:
        _alone(threads, words)


@kernel
def _start_backward(threads, words, steps, task, x, dy, out, weight, stats, dweight, dbias):
    """The same of a backward pass."""
    words[_w.STEPS], words[_w.STATS], words[_w.LOST] = steps, address_of(stats), ZERO
    words[_w.X], words[_w.DY], words[_w.OUT] = address_of(x), address_of(dy), address_of(out)
    words[_w.WEIGHT], words[_w.TASK] = address_of(weight), np.uintp(task)
    words[_w.DWEIGHT], words[_w.DBIAS] = address_of(dweight), address_of(dbias)
    if threads == 1:
        _alone(threads, words)


def _steps_of(plan: _plan.Plan, name: str, task: int, threads: int) -> Any:
    """The word for the steps of a pass, compiled and kept: small calls take no longer than this."""
    key = name, task, threads
    kept = plan.steps.get(key)
    if kept is None:
        found, names = _steps.STEPS[plan.dtype], _names_of(plan, name, task)
        addresses = [found[step].address if step else 0 for step in names]
        both = task & REDUCE and task & WRITE and not task & FIXED
        slab = plan.slab(1 if name == "forward" else 2, threads) if both else 0
        steps = np.array([*addresses, slab], _w.WORD)
        kept = plan.steps.setdefault(key, (_w.address(steps), steps))  # one only, of any threads
    return kept[0]


def _names_of(plan: _plan.Plan, name: str, task: int) -> list[str | None]:
    """Of the stages from SHIFT to WRITTEN; None where a task has no need of one."""
    sums = "x" if name == "forward" else "x and dy"
    reads = "dy" if task & FIXED else sums
    by = "columns", "rows"
    reduce, write = task & REDUCE, task & WRITE
    return [
        f"shift {name}" if reduce else None,
        f"sum {sums} by {by[plan.array[_plan.REDUCE_BY_ROWS]]}" if reduce else None,
        f"merge {name}" if reduce else None,
        f"prepare {name}" if write else None,
        f"write {reads} by {by[plan.array[_plan.WRITE_BY_ROWS]]}" if write else None,
    ]


def _pass(start: Callable, name: str, plan: _plan.Plan, task: int, arguments: tuple) -> None:
    threads = _threads.get_num_threads() if plan.large else 1
    workspace = plan.pool.take(threads)
    steps, words = _steps_of(plan, name, task, threads), workspace.context
    start(threads, words, steps, *arguments)
    if threads > 1 and not _threads.run(_team, threads, words):
        start(1, words, steps, *arguments)
    plan.pool.give(workspace)


def forward(plan: _plan.Plan, task: int, *arguments) -> None:
    """REDUCE: mean and m2 of x into `stats`. WRITE: invstd too, and the normalised x into `out`.

    ``arguments``: x, out, weight, bias, stats, count, eps. Without REDUCE, mean and m2 are read
    from `stats` and the variance is m2 / count.
    """
    _pass(_start_forward, "forward", plan, task, arguments)


def evaluate(plan: _plan.Plan, *arguments) -> None:
    """Normalise x with given statistics: x, out, weight, bias, mean, var, eps."""
    _pass(_start_evaluation, "forward", plan, WRITE, arguments)


def backward(plan: _plan.Plan, task: int, *arguments) -> None:
    """REDUCE: dweight and dbias. WRITE: dx into `out`, which needs REDUCE unless FIXED.

    ``arguments``: x, dy, out, weight, stats, dweight, dbias.
    """
    _pass(_start_backward, "backward", plan, task, (task, *arguments))


@kernel
def move(running_mean, running_var, mean, m2, divisor, momentum):
    """``running = (1 - momentum) * running + momentum * batch``, in float64."""
    for j in range(np.uintp(mean.size)):
        running_mean[j] = running_mean[j] * (1.0 - momentum) + momentum * mean[j]
    for j in range(np.uintp(m2.size)):
        running_var[j] = running_var[j] * (1.0 - momentum) + momentum * (m2[j] / divisor)
