"""A forward and a backward pass, whole or in part, alone or by a team of threads.

A pass is a walk over steps, compiled once for one thread and once for a team. Whatever is allocated
is allocated before: an error inside would be lost.
"""

from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

import numpy as np
from numba import prange

from .._runtime import threads as _threads
from .._runtime.jit import array_at, call_step, data_pointer, inner, kernel, record_at
from .._runtime.pace import Kind
from . import steps
from .abi import CONTEXT, PARTS, PLAN, STEPS, record
from .schedule import Plan
from .simd import ONE, TWO, ZERO
from .steps import Activation, Key, Reads, Stage, Storage, Walk

# What a pass has to do, as a sum of these. FIXED treats the statistics as constants; from WEIGHTED
# on they are options, of which MASK goes with WEIGHTED.
REDUCE, WRITE, FIXED, BACKWARD = 1, 2, 4, 8
WEIGHTED, MASK, RESIDUAL, RELU, LEAKY_RELU = 16, 32, 64, 128, 256
# With other arrays in the caches, which are read next: a walk takes them for half the size.
CROWDED = 512

# Stages of a pass, in this order. SLABS, instead of all of them, takes a part of the channels
# through all stages before the next part.
SHIFT, SUM, MERGE, PREPARE, WRITTEN = (stage.value for stage in Stage)
SLABS, DONE = len(Stage), len(Stage) + 1
FARTHEST = 2.0**40  # times another, a coefficient may be, before products of theirs might overflow
TEAM_BYTES = 1 << 18  # of parts, from which they are worth a team's launch
TEAM_CHANNELS = 2048  # from which it pays to launch a team for what is done per channel


@inner
def _sum_and_write(t, team, address):
    """Sum and write the channels of a thread's share a slab at a time, while it is in the caches.

    Sketched as bare reads and copies of 103 MB: 8.6 ms instead of 10.3 for whole passes, backward
    13.1 instead of 16.8 (AMD EPYC, 2026-11).
    """
    context = record_at(address, CONTEXT)
    plan, todo = record_at(context.plan, PLAN), record_at(context.steps, STEPS)
    c, run, unit, units = plan.channels, plan.run, plan.unit_channels, plan.units
    start, stop = units * t // team, units * (t + ONE) // team
    slabs = (stop - start + todo.slab - ONE) // todo.slab
    for k in range(slabs):
        low = start + (stop - start) * k // slabs
        high = start + (stop - start) * (k + ONE) // slabs
        first, last = low * unit, min(c, high * unit)
        call_step(todo.shift, t, ZERO, first, last, address)
        for exact in (ZERO, ONE):
            for row in range(ZERO, plan.blocks // plan.pieces, units):
                blocks = (row + low) * plan.pieces, (row + high) * plan.pieces
                call_step(todo.sum, t, exact, blocks[0], blocks[1], address)
            if call_step(todo.merge, t, exact, first, last, address) == 0:
                break
        call_step(todo.prepare, t, ZERO, first, last, address)
        call_step(todo.write, t, plan.samples, first * run, last * run, address)


@inner
def _work(stage, address):
    """The step of a stage, and how many channels, blocks or values it goes over.

    The step is 0 if there is none. For SLABS, it is how many units one has.
    """
    context = record_at(address, CONTEXT)
    plan, todo = record_at(context.plan, PLAN), record_at(context.steps, STEPS)
    if stage == SUM:
        return todo.sum, plan.blocks
    if stage == WRITTEN:
        return todo.write, plan.size
    if stage == SHIFT:
        return todo.shift, plan.channels
    if stage == MERGE:
        return todo.merge, plan.channels
    if stage == PREPARE:
        return todo.prepare, plan.channels
    return todo.slab, plan.channels


@inner
def _share(t, team, exact, stage, address):
    """What a thread has to do at a stage."""
    if stage == SLABS:
        _sum_and_write(t, team, address)
        return
    step, total = _work(stage, address)
    first, last = total * t // team, total * (t + ONE) // team
    times = ONE if stage == WRITTEN else exact
    if call_step(step, t, times, first, last, address) != 0:
        record_at(address, CONTEXT).sum_again = ONE


def _run(threads, address):
    """Sum all blocks, and once more if need be; then write all values. Or do both slab by slab."""
    team, address = np.uintp(threads), np.uintp(address)
    context = record_at(address, CONTEXT)
    exact, stage = ZERO, SLABS if _work(SLABS, address)[0] != ZERO else SHIFT
    while stage != DONE:
        step, total = _work(stage, address)
        little = stage in (SHIFT, MERGE) and total < TEAM_CHANNELS
        if step == ZERO:
            pass
        elif little or stage == PREPARE:
            _share(ZERO, ONE, exact, stage, address)
        else:
            for t in prange(threads):
                _share(np.uintp(t), team, exact, stage, address)
        if stage == MERGE and exact == ZERO and context.sum_again != ZERO:
            exact, stage = ONE, SUM
        else:
            stage = DONE if stage >= WRITTEN else stage + 1


_alone, _team = inner(_run), kernel(_run, parallel=True)


@inner
def _share_of_parts(t, team, address):
    """A thread's share of passes over parts."""
    parts = record_at(address, PARTS)
    place = array_at(parts.contexts, team, np.uintp)[t]
    context = record_at(place, CONTEXT)
    for _ in range(parts.count * t // team, parts.count * (t + ONE) // team):
        context.sum_again = ZERO
        _alone(1, place)
        context.x += parts.x
        context.dy += parts.dy
        context.out += parts.out
        context.residual += parts.residual
        context.dresidual += parts.dresidual
        context.stats += parts.stats
        context.dweight += parts.dweight
        context.dbias += parts.dbias


def _run_parts(threads, address):
    """Passes over equal parts, of which each thread has its share, in a context of its own."""
    team, address = np.uintp(threads), np.uintp(address)
    for t in prange(threads):
        _share_of_parts(np.uintp(t), team, address)


_parts_alone, _parts_team = kernel(_run_parts), kernel(_run_parts, parallel=True)


@kernel
def _start_forward(threads, address, todo, x, out, weight, bias, stats, count, eps):
    """Complete the context; run if there is but one thread."""
    address = np.uintp(address)
    context = record_at(address, CONTEXT)
    context.steps, context.sum_again, context.stats = np.uintp(todo), ZERO, data_pointer(stats)
    context.weight, context.bias = data_pointer(weight), data_pointer(bias)
    context.x, context.out = data_pointer(x), data_pointer(out)
    context.count, context.eps = count, eps
    if threads == 1:
        _alone(threads, address)


@kernel
def _start_evaluation(threads, address, todo, x, out, weight, bias, mean, var, eps):
    """Complete the context of a forward pass with given statistics; run if there is one thread."""
    address, c = np.uintp(address), np.uintp(mean.size)
    context = record_at(address, CONTEXT)
    given = array_at(context.given, TWO * TWO * c, np.float64)
    for j in range(c):
        given[j], given[c + j], given[(TWO + ONE) * c + j] = mean[j], var[j], 0.0
    context.steps, context.sum_again, context.stats = np.uintp(todo), ZERO, context.given
    context.weight, context.bias = data_pointer(weight), data_pointer(bias)
    context.x, context.out = data_pointer(x), data_pointer(out)
    context.count, context.eps = 1.0, eps
    if threads == 1:
        _alone(threads, address)


@kernel
def _start_backward(threads, address, todo, x, dy, out, weight, stats, dweight, dbias):
    """Complete the context of a backward pass; run if there is one thread."""
    address = np.uintp(address)
    context = record_at(address, CONTEXT)
    context.steps, context.sum_again, context.stats = np.uintp(todo), ZERO, data_pointer(stats)
    context.weight = data_pointer(weight)
    context.dweight, context.dbias = data_pointer(dweight), data_pointer(dbias)
    context.x, context.dy, context.out = data_pointer(x), data_pointer(dy), data_pointer(out)
    context.sums = context.own_sums
    if threads == 1:
        _alone(threads, address)


@kernel
def _start_part(threads, address, todo, total, x, dy, out, weight, stats, sums):
    """Complete the context of a part of a backward pass; run if there is one thread."""
    address = np.uintp(address)
    context = record_at(address, CONTEXT)
    context.steps, context.sum_again, context.stats = np.uintp(todo), ZERO, data_pointer(stats)
    context.weight, context.sums = data_pointer(weight), data_pointer(sums)
    context.dweight = context.dbias = context.gain  # rounded sums, which nobody asks for
    context.total = total
    context.x, context.dy, context.out = data_pointer(x), data_pointer(dy), data_pointer(out)
    if threads == 1:
        _alone(threads, address)


class Options(NamedTuple):
    """What a call asks for besides."""

    task: int  # a sum of options
    fields: dict[str, float]  # of its `CONTEXT`
    arrays: tuple[np.ndarray, ...]  # whose addresses are among them


def options(task: int, total: float, slope: float, **arrays) -> Options:
    """A task's options: numbers, and arrays by their names in `CONTEXT`, None where not needed."""
    given = {name: array for name, array in arrays.items() if array is not None}
    fields = {name: data_pointer(array) for name, array in given.items()}
    return Options(task, {"total": total, "slope": slope} | fields, tuple(given.values()))


_NONE = Options(0, {}, ())  # in a workspace where they may be left from other calls


def _keys(plan: Plan, task: int) -> dict[str, Key]:
    """The steps that a task has need of, by their fields in `STEPS`."""
    storage = Storage[plan.storage.name.upper()]
    reads = Reads.X_AND_DY if task & BACKWARD else Reads.X
    sum_walk = Walk.ROWS if plan.cut["reduce_by_rows"] else Walk.COLUMNS
    write_walk = Walk.ROWS if plan.cut["write_by_rows"] else Walk.COLUMNS
    weighted, mask, residual = (task & bit > 0 for bit in (WEIGHTED, MASK, RESIDUAL))
    applied = Activation.NONE
    if task & (RELU | LEAKY_RELU):
        applied = Activation.RELU if task & RELU else Activation.LEAKY_RELU
    # Forward, only what is written is activated; backward, a sum has to know where it was.
    before = applied if task & BACKWARD else Activation.NONE
    coefficients = Key(Stage.SHIFT, Walk.CHANNELS, storage, reads)
    if before is not Activation.NONE:
        coefficients = coefficients._replace(activation=Activation.RELU)  # whichever it is
    forward, keys = reads is Reads.X, {}
    if task & REDUCE or before is not Activation.NONE:
        stored = storage if forward else storage.computed
        keys["shift"] = coefficients._replace(storage=stored, weighted=weighted and forward)
    if task & REDUCE:
        keys["merge"] = Key(Stage.MERGE, Walk.CHANNELS, storage.computed, reads)
        keys["sum"] = Key(Stage.SUM, sum_walk, storage, reads, activation=before)._replace(
            weighted=weighted,
            mask=mask and forward,
            residual=residual and before is not Activation.NONE,
        )
    if task & WRITE:
        keys["prepare"] = coefficients._replace(stage=Stage.PREPARE)
        corrects = Reads.DY if task & FIXED else reads
        keys["write"] = Key(
            Stage.WRITE, write_walk, storage, corrects, activation=applied
        )._replace(
            weighted=weighted and corrects is Reads.X_AND_DY,
            mask=mask and corrects is Reads.X_AND_DY,
            residual=residual,
        )
    return keys


class Todo(NamedTuple):
    """What a pass has to do, on so many threads."""

    address: int  # of a record of `STEPS`
    steps: np.ndarray
    kind: Kind


def _todo(plan: Plan, task: int, threads: int) -> Todo:
    """The steps of a pass, compiled and kept: small calls take no longer than this."""
    kept = plan.steps.get((task, threads))
    if kept is None:
        fields = {name: steps.address(key) for name, key in _keys(plan, task).items()}
        both = task & (REDUCE | WRITE | FIXED) == REDUCE | WRITE
        # Of two inputs, a gradient with fixed statistics may read but one.
        inputs = 2 if task & BACKWARD and (task & REDUCE or not task & FIXED) else 1
        inputs = 2 if task & RESIDUAL else inputs
        walk = plan.walk(4 if task & CROWDED else inputs, threads, both)
        fields["slab"] = walk.slab
        fields["nontemporal"] = int(walk.nontemporal and plan.cut["aligned"])
        fields["fixed"] = int(task & FIXED > 0)
        beside = task & (WEIGHTED | BACKWARD) == WEIGHTED
        fields["columns"] = plan.cut.get("weights_columns" if beside else "tile_room", 0)
        made = record(STEPS, fields)
        todo = Todo(data_pointer(made), made, Kind((inputs + 1) * plan.nbytes))
        kept = plan.steps.setdefault((task, threads), todo)  # one only, of any threads
    return kept


def _pass(start: Callable, plan: Plan, task: int, more: Options | None, arguments: tuple) -> None:
    threads = min(plan.team, _threads.get_num_threads()) if plan.team > 1 else 1
    pool = plan.pool
    if more is not None:
        task, pool = task | more.task, plan.pool_with_options
    workspace = pool.take(threads)
    todo = plan.steps.get((task, threads)) or _todo(plan, task, threads)
    context = workspace.context
    if more is not None:
        for name, value in more.fields.items():
            workspace.fields[name] = value
    start(threads, context, todo.address, *arguments)
    if threads > 1 and not _threads.run(_team, threads, todo.kind, context):
        begin = perf_counter()
        start(1, context, todo.address, *arguments)
        todo.kind.alone(perf_counter() - begin)
    pool.give(workspace)


def forward(plan: Plan, task: int, more: Options | None, *arguments) -> None:
    """REDUCE: mean and m2 of x into `stats`. WRITE: invstd too, and the normalised x into `out`.

    ``arguments``: x, out, weight, bias, stats, count, eps; ``stats`` has four rows of float64, a
    value a channel: mean, m2 (the sum of squared deviations), invstd, and what was rounded off the
    mean. Without REDUCE, all but invstd are read from `stats` and the variance is m2 / count.
    ``more``: of weights and places (with REDUCE), residual, and what is applied to the output.
    """
    _pass(_start_forward, plan, task, more, arguments)


def evaluate(plan: Plan, more: Options | None, *arguments) -> None:
    """Normalise x with given statistics: x, out, weight, bias, mean, var, eps."""
    _pass(_start_evaluation, plan, WRITE, more, arguments)


def backward(plan: Plan, task: int, more: Options | None, *arguments) -> None:
    """REDUCE: dweight and dbias. WRITE: dx into `out`, which needs REDUCE unless FIXED.

    ``arguments``: x, dy, out, weight, stats, dweight, dbias. ``more``: as of the forward pass, with
    its bias; with a residual, ``dresidual`` is written beside dx.
    """
    _pass(_start_backward, plan, task | BACKWARD, more, arguments)


def each_part(plan: Plan, task: int, more: Options, count: int, fields: dict, arrays: dict) -> None:
    """A forward or backward pass over each of ``count`` parts, one behind the other.

    Each by one thread: 64 of (4, 64, 14, 14) take 0.55 ms, in 64 calls of a team 0.69 (AMD EPYC, 2
    threads, 2026-11). ``plan``: of a part. ``fields`` of its `CONTEXT` stay as they are; `MOVED`
    ones go on from part to part: ``arrays`` have as many parts, and their values in this order.
    """
    task |= more.task
    threads = min(count, _threads.get_num_threads())
    if count * plan.nbytes < TEAM_BYTES:
        threads = 1
    todo = plan.steps.get((task, 1)) or _todo(plan, task, 1)
    kind = plan.steps.setdefault(
        (task, 1, count), Kind((2 + (task & BACKWARD > 0)) * count * plan.nbytes)
    )
    pool = plan.pool_with_options
    workspaces = [pool.take(1) for _ in range(threads)]
    steps = {name: array.nbytes // count for name, array in arrays.items()}
    for t, workspace in enumerate(workspaces):
        room = workspace.fields
        for name, value in (fields | more.fields).items():
            room[name] = value
        for name, array in arrays.items():
            room[name] = data_pointer(array) + count * t // threads * steps[name]
        room["steps"], room["sums"] = todo.address, room["own_sums"]
    contexts = np.array([workspace.context for workspace in workspaces], np.uintp)
    made = record(PARTS, {"contexts": data_pointer(contexts), "count": count} | steps)
    address = data_pointer(made)
    if threads == 1 or not _threads.run(_parts_team, threads, kind, address):
        _parts_alone(threads, address)
    for workspace in workspaces:
        pool.give(workspace)


def backward_part(plan: Plan, task: int, total: float, *arguments) -> None:
    """REDUCE: sums of dy and of dy * (x - mean) into `sums`; or WRITE: dx, by such sums.

    ``arguments``: x, dy, out, weight, stats, sums; the last is (2, channels) of float64. ``total``:
    the number of values a channel that they are sums of.
    """
    _pass(_start_part, plan, task | BACKWARD, _NONE, (total, *arguments))


@kernel
def move(running_mean, running_var, stats, divisor, momentum):
    """``running = (1 - momentum) * running + momentum * batch``, in float64; `stats` of `forward`.

    Rows of `stats` as arguments of their own would take as long to make as they take to move.
    """
    for j in range(np.uintp(running_mean.size)):
        old = np.float64(running_mean[j])
        running_mean[j] = old * (1.0 - momentum) + momentum * stats[0, j]
    for j in range(np.uintp(running_var.size)):
        old = np.float64(running_var[j])
        running_var[j] = old * (1.0 - momentum) + momentum * (stats[1, j] / divisor)


@kernel
def add(weight_grad, bias_grad, dweight, dbias):
    """Add gradients to those of before, which is no place to fail: an overflow says nothing."""
    for j in range(np.uintp(weight_grad.size)):
        weight_grad[j] += dweight[j]
    for j in range(np.uintp(bias_grad.size)):
        bias_grad[j] += dbias[j]


@kernel
def second_order(weight, stats, of_dy, of_u, products, a, n, factors, sums, dweight):
    """Coefficients of `double_backward` by the sums of a pass over each two of its three arrays.

    dx is ``factors[0] * dy + sums[1, 1] * (x - mean) + sums[1, 0] + factors[1] * u``. Returns
    whether a backward pass can write that but for u, with weight ``factors[0]`` and ``sums[0]``. In
    NumPy they take 60 us of 150 for (256, 512) (AMD EPYC, 2026-11).
    """
    fits = True
    for j in range(np.uintp(weight.size)):
        r = stats[2, j]
        c = np.float64(weight[j]) * r
        dy_mean, dy_xhat = of_dy[0, j] / n, of_dy[1, j] * r / n
        u_mean, u_xhat = of_u[0, j] / n, of_u[1, j] * r / n
        s = products[1, j] - n * (u_mean * dy_mean + u_xhat * dy_xhat)
        g_u, g_dy = -c * dy_xhat, a[j] - c * u_xhat
        level = -r * (g_u * u_mean + g_dy * dy_mean)
        slope = -r * r * (g_u * u_xhat + g_dy * dy_xhat + c * s / n)
        factors[0, j], factors[1, j], dweight[j] = r * g_dy, r * g_u, r * s
        factor = np.float64(factors[0, j])
        scale = -n / factor if factor != 0.0 else 0.0
        sums[0, 0, j], sums[0, 1, j] = level * scale, slope * scale
        sums[1, 0, j], sums[1, 1, j] = level, slope
        nothing = factor == 0.0 and level == 0.0 and slope == 0.0
        near = factor != 0.0 and abs(slope) <= FARTHEST * abs(factor)
        fits = fits and (nothing or near)
    return fits
