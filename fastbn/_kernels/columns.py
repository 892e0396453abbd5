"""Kernels where neighbouring values differ in channel: the data as a matrix of wide rows.

Channels last, (N, D) and short runs: a row holds `plan.width` columns, a whole number of samples
(C * L values each), so that even three channels give long vectors. What is left over after the last
whole row is a shorter row.
"""

import numpy as np

from .._runtime.jit import apart, array_at, inlined, inner, record_at, span
from .abi import ALIASING_BYTES, BEYOND, STEPS
from .simd import (
    FOUR,
    ONE,
    TWO,
    ZERO,
    add_exactly,
    add_exactly_one,
    add_few,
    add_few_exactly,
    add_rows,
    add_rows_exactly,
    affine,
    affine_nontemporal,
    affine_one,
    affine_twice,
    affine_twice_nontemporal,
    copy_vector,
    fence,
    lanes_of,
    part,
    repeat,
    runs_at_once,
    spread_samples,
    stores_past_caches,
    to_line,
    weighted_by,
)

ALIASING, BEYOND_ALL = np.uintp(ALIASING_BYTES), np.uintp(BEYOND)


@inner
def _repeat_run(weights, w, run, n, out, j):
    """The weights of a run, as often as fills n values from ``out[j]`` on, and some beyond."""
    lanes = lanes_of(out)
    for k in range(ZERO, run + lanes, run):
        for i in range(ZERO, run, lanes):
            copy_vector(out, weights, j + k + i, w + i)
    step, phase, first = lanes % run, ZERO, (run + lanes) // lanes * lanes
    phase = first % run
    for k in range(first, n, lanes):  # from the first ones
        copy_vector(out, out, j + k, j + phase)
        phase += step
        if phase >= run:
            phase -= run


@apart
def _spread(weights, plan, o, distance, n, rows, out):
    """The weights of n values from o on, and so far apart in so many rows, one after the other.

    What a vector leaves beyond its place is written over by what follows; there is room for
    `abi.BEYOND` values behind the last one.
    """
    channels, run, lanes = plan.channels, plan.run, lanes_of(out)
    if n == distance:
        n, rows = n * rows, ONE
    sample, place, step = o // (channels * run), o % (channels * run), distance // (channels * run)
    for row in range(rows):
        w, length, j, stop = lanes + sample * run, channels * run - place, row * n, row * n + n
        if run == ONE and channels <= lanes:
            while j < stop:  # from a sample's first channel on
                spread_samples(out, weights, j, w, channels)
                j, w = j + lanes * channels, w + lanes
        elif run == ONE and channels <= TWO * lanes:
            while j < stop:  # so, too
                repeat(out, weights, j, w)
                repeat(out, weights, j + lanes, w)
                j, w = j + channels, w + ONE
        while j < stop:
            if run == ONE:
                for i in range(ZERO, min(length, stop - j), lanes):
                    repeat(out, weights, j + i, w)
            else:
                _repeat_run(weights, w, run, min(length, stop - j), out, j)
            j, w, length = j + length, w + run, channels * run
        sample += step


@inner
def _beside(weights, plan, o, distance, n, rows, out):
    """Put the weights of some rows, if there are any, where they lie as the columns do."""
    if weights is not None:
        _spread(weights, plan, o, distance, n, rows, out)


@inner
def _apart_by(weights, plan, rows):
    """How far rows lie from each other that are summed at once.

    Short ones lie together, if there are weights, which then are spread at once.
    """
    alone = weights is None or plan.width == plan.channels * plan.run
    return rows * plan.width if alone else plan.width


@inner
def _add_interleaved(plan, o, stop, n, operands, weighted, coefficients, s1, s2, vectors, chosen):
    """Add rows to the sums of their first n columns, several at once.

    These lie far from each other: one after the other in as many places of memory. Then those that
    are left. The last of so many vectors may reach beyond what is wanted: what it reads must exist,
    and the sums it leaves there mean nothing. With ``chosen``, of the columns where vectors begin:
    in float64, and only those.
    """
    width, lanes, at_once = plan.width, lanes_of(operands), runs_at_once(operands)
    rows = (stop - o) // (at_once * width)
    distance = _apart_by(operands.weights, plan, rows)
    further = width if distance == rows * width else at_once * width
    rest = o + at_once * rows * width
    for _ in range(rows):
        _beside(operands.weights, plan, o, distance, n, at_once, weighted.weights)
        for k in range(vectors):
            if chosen is None:
                j = k * lanes
                add_rows(weighted, o, coefficients, s1, s2, j, j, distance, n)
            else:
                j = np.uintp(chosen[k])
                add_rows_exactly(weighted, o, coefficients, s1, s2, j, j, distance, n)
        o += further
    left = (stop - rest) // width
    _beside(operands.weights, plan, rest, width, n, left, weighted.weights)
    for k in range(vectors if left != ZERO else ZERO):
        if chosen is None:
            j = k * lanes
            add_few(weighted, rest, coefficients, s1, s2, j, j, width, n, left)
        else:
            j = np.uintp(chosen[k])
            add_few_exactly(weighted, rest, coefficients, s1, s2, j, j, width, n, left)


@apart
def _add_again(plan, o, stop, n, operands, weighted, coefficients, s1, s2, vectors, chosen):
    _add_interleaved(plan, o, stop, n, operands, weighted, coefficients, s1, s2, vectors, chosen)


@apart
def _add_exactly(plan, o, stop, n, operands, weighted, coefficients, s1, s2):
    """Add row by row, in float64, and nothing but the n columns."""
    lanes = lanes_of(operands)
    whole = n // lanes * lanes
    while o < stop:
        _beside(operands.weights, plan, o, n, n, ONE, weighted.weights)
        for j in range(ZERO, whole, lanes):
            add_exactly(weighted, o, coefficients, s1, s2, j, j)
        for j in range(whole, n):
            add_exactly_one(weighted, o, coefficients, s1, s2, j, j)
        o += plan.width


@inner
def any_of(marks, first, last):
    """Whether a channel is marked. The loop that marks them would not be vectorised with this."""
    found = ZERO
    for j in range(first, last):
        found |= np.uintp(marks[j] != 0.0)
    return found != ZERO


@apart
def _choose(marks, first, run, n, lanes, chosen):
    """Which vectors of n columns hold a marked channel, the first column being of ``first``."""
    channels, vectors = np.uintp(marks.size), ZERO
    if run == ONE and first + n <= channels:
        for j in range(ZERO, n, lanes):
            if any_of(marks, first + j, first + min(n, j + lanes)):
                chosen[vectors] = j
                vectors += ONE
        return vectors
    j, c, free = ZERO, first, ZERO  # all vectors before `free` are decided
    while j < n:
        stop = min(j + run, n)
        if marks[c] != 0.0:
            for place in range(max(free, j // lanes * lanes), stop, lanes):
                chosen[vectors] = place
                vectors, free = vectors + ONE, place + lanes
        j, c = stop, c + ONE if c + ONE < channels else ZERO
    return vectors


@apart
def expand(values, first, run, n, out):
    """``out[j]`` = the value of the channel of column j, the first column being of ``first``."""
    channels, lanes = np.uintp(values.size), lanes_of(values)
    j, c = ZERO, first
    while j < n:
        if run == ONE:
            length = min(channels - c, n - j)
            for i in range(length):
                out[j + i] = values[c + i]
            j, c = j + length, ZERO
            continue
        stop = j + run
        if stop + lanes <= n:  # the last vector reaches beyond the run, and is written over
            while j < stop:
                repeat(out, values, j, c)
                j += lanes
        else:
            for i in range(j, min(stop, n)):
                out[i] = values[c]
        j, c = stop, c + ONE if c + ONE < channels else ZERO


@inner
def _add_up(s1, s2, j, n):
    """The sums of n values of each array from j on: first halves, second halves, side by side.

    One after the other, an addition waits for the one before: the statistics of (300, 4, 127) take
    1.2 times as long (AMD EPYC, 2026-11).
    """
    a1 = a2 = b1 = b2 = 0.0
    half = n // TWO
    for i in range(j, j + half):
        a1 += s1[i]
        a2 += s2[i]
        b1 += s1[i + half]
        b2 += s2[i + half]
    for i in range(j + TWO * half, j + n):
        b1 += s1[i]
        b2 += s2[i]
    return a1 + b1, a2 + b2


@apart
def _fold(s1, s2, first, run, n, out1, out2):
    """Add the columns' sums up by channel: `expand` backwards."""
    channels = np.uintp(out1.size)
    for j in range(first, min(channels, first + n // run)):
        out1[j] = out2[j] = 0.0
    j, c = ZERO, first
    while j < n:
        if run == ONE:
            length = min(channels - c, n - j)
            for i in range(length):
                out1[c + i] += s1[j + i]
            for i in range(length):
                out2[c + i] += s2[j + i]
            j, c = j + length, ZERO
        else:
            total1, total2 = _add_up(s1, s2, j, run)
            out1[c] += total1
            out2[c] += total2
            j, c = j + run, c + ONE if c + ONE < channels else ZERO


@inner
def _clear(sums):
    for j in range(np.uintp(sums.size)):
        sums[j] = 0.0


@inner
def _expand(values, channel, run, n, out):
    """Repeat a coefficient, if there is one, for each of its columns."""
    if values is not None:
        expand(values, channel, run, n, out)


@inner
def _of_columns(coefficients, direct, channel, run, start, n, tile):
    """The coefficients of n columns of a row: their own where columns are channels."""
    if direct:
        return part(coefficients, start, n)
    _expand(coefficients.center, channel, run, n, tile.center)
    _expand(coefficients.factor, channel, run, n, tile.factor)
    _expand(coefficients.level, channel, run, n, tile.level)
    return tile


@inlined
def reduce(context, plan, real, t, exact, operands, coefficients, tiles, first, last):
    """Leave the partial sums of blocks ``first`` to ``last``; if exact, of marked channels only."""
    c, run, width, room = plan.channels, plan.run, plan.width, plan.tile_room
    parts, size, lanes = plan.parts, plan.size, lanes_of(operands)
    rows, rest, across = size // width, size % width, plan.blocks // plan.parts
    partial_sums = array_at(context.partial_sums, TWO * parts * c, np.float64)
    marks = array_at(context.needs_float64, c, np.float64)
    tile_sums = array_at(context.tile_sums, TWO * room * context.threads, np.float64)
    s1, s2 = span(tile_sums, TWO * room * t, room), span(tile_sums, TWO * room * t + room, room)
    chosen = span(array_at(context.chosen, room * context.threads, np.float64), room * t, room)
    at_once, own = record_at(context.steps, STEPS).columns, part(tiles, room * t, room)
    beside = plan.weights_room
    weighted = weighted_by(
        operands, context.tile_weights, beside * context.threads, beside * t, beside
    )
    # Where columns are channels, and vectors whole, nothing is repeated nor added up.
    direct = width == c and c % lanes == ZERO
    reach = (width + lanes - ONE) // lanes * lanes  # of a row's last vector
    safe = (size - reach) // width + ONE if reach <= size else ZERO
    k = first
    while k < last:
        i, start = k // across, k % across * plan.tile
        # Neighbouring tiles at once, as many as there is room for.
        many = min(last - k, across - k % across, max(ONE, at_once // plan.tile))
        n, channel = min(many * plan.tile, width - start), start // run
        k += many
        if direct:
            s1 = span(partial_sums, i * c + start, n)
            s2 = span(partial_sums, (parts + i) * c + start, n)
        columns = _of_columns(coefficients, direct, channel, run, start, n, own)
        _clear(s1)
        _clear(s2)
        o, below = i * plan.height * width + start, min(rows, (i + ONE) * plan.height)
        stop, end = max(o, min(below, safe) * width + start), below * width + start
        tail = ZERO
        if i == parts - ONE and rest > start:
            tail = min(n, rest - start)
        if exact:
            vectors = _choose(marks, channel, run, n, lanes, chosen)
            _add_again(plan, o, stop, n, operands, weighted, columns, s1, s2, vectors, chosen)
        else:
            vectors = (n + lanes - ONE) // lanes
            _add_interleaved(plan, o, stop, n, operands, weighted, columns, s1, s2, vectors, None)
        _add_exactly(plan, stop, end, n, operands, weighted, columns, s1, s2)
        o, stop = rows * width + start, rows * width + start + tail
        _add_exactly(plan, o, stop, tail, operands, weighted, columns, s1, s2)
        if not direct:
            total1 = span(partial_sums, i * c, c)
            total2 = span(partial_sums, (parts + i) * c, c)
            _fold(s1, s2, channel, run, n, total1, total2)


@inner
def in_row(plan, out):
    """Where the coefficients of a wide row begin, and how many there are: a vector more.

    They begin behind as many values as make them lie on lines of the cache where the output does.
    """
    lanes, start = lanes_of(out), ZERO
    if plan.aligned != ZERO:
        start = (lanes - to_line(out, ZERO)) % lanes
    return start, plan.write_width + lanes


@apart
def _write_values(o, stop, width, operands, coefficients, first):
    """Write values one by one, as far as the next whole vector or the end."""
    while o < stop:
        affine_one(operands, o, coefficients, o % width, o - first)
        o += ONE
    return o


@inner
def _distance(plan, operands, n):
    """How far two places of n values lie from each other, where rows begin alike; 0: no two.

    At 2 KiB or nearly so, modulo 4 KiB: at a multiple of 4 KiB, loads at one place wait for stores
    at the other (4 KiB aliasing), which takes up to 5 times as long (AMD EPYC, 2026-11).
    """
    unit, size = plan.write_unit, np.uintp(operands.out.itemsize)
    if plan.aligned == ZERO or unit * size % ALIASING == ZERO:
        return ZERO
    distance = n // (TWO * unit) * unit
    while distance != ZERO and (distance * size + ALIASING // FOUR) % ALIASING < ALIASING // TWO:
        distance -= unit
    return distance


@inlined
def _write_one_place(plan, past_caches, o, stop, operands, coefficients, first):
    """Write the output from where a vector begins to ``stop``."""
    width, lanes = plan.write_width, lanes_of(operands)
    last, p = stop - (stop - o) % lanes, o % width
    while o < last:
        end = min(last, o + (width - p + lanes - ONE) // lanes * lanes)
        if past_caches:
            while o < end:
                affine_nontemporal(operands, o, coefficients, p, o - first)
                o, p = o + lanes, p + lanes
        while o < end:
            affine(operands, o, coefficients, p, o - first)
            o, p = o + lanes, p + lanes
        if p >= width:
            p -= width
    _write_values(last, stop, width, operands, coefficients, first)


@inner
def _write_part(plan, past_caches, o, stop, operands, coefficients):
    """Write the output from o to ``stop``, at two places at once as far as there are two.

    These share the coefficients: backward, (25088, 128) takes 806 us, at one place 997 (AMD EPYC,
    2026-11). All vectors lie on cache lines, wherever rows end: a row's last vector may reach into
    the next one, and so do the coefficients.
    """
    width, lanes = plan.write_width, lanes_of(operands)
    head = min(stop, o + to_line(operands.out, o)) if plan.aligned != ZERO else o
    o = _write_values(o, head, width, operands, coefficients, ZERO)
    last = stop - (stop - o) % lanes
    distance, p = _distance(plan, operands, last - o), o % width
    half = o + distance
    while o < half:
        end = min(half, o + (width - p + lanes - ONE) // lanes * lanes)
        if past_caches:
            while o < end:
                affine_twice_nontemporal(operands, o, coefficients, p, ZERO, distance)
                o, p = o + lanes, p + lanes
        while o < end:
            affine_twice(operands, o, coefficients, p, ZERO, distance)
            o, p = o + lanes, p + lanes
        if p >= width:
            p -= width
    _write_one_place(plan, past_caches, o + distance, stop, operands, coefficients, ZERO)


@inner
def _write_weighted(plan, past_caches, o, stop, operands, weighted, coefficients):
    """Write the output from o to ``stop``, so much at once as there is room for the weights of."""
    run, width, lanes = plan.run, plan.write_width, lanes_of(operands)
    # Where weights begin: with a run, or with a sample of few values.
    unit = plan.channels * run if plan.channels * run <= TWO * lanes else run
    most = (plan.weights_room - BEYOND_ALL) // lanes * lanes
    while o < stop:
        head = min(stop, o + to_line(operands.out, o)) if plan.aligned != ZERO else o
        end, start = min(stop, head + most), o - o % unit
        n = end - start
        _spread(operands.weights, plan, start, n, n, ONE, weighted.weights)
        _write_values(o, head, width, weighted, coefficients, start)
        _write_one_place(plan, past_caches, head, end, weighted, coefficients, start)
        o = end


@inlined
def write(context, plan, real, t, operands, coefficients, times, first, last):
    """Write the output from ``first`` to ``last``, in so many samples."""
    past_caches, (begin, size) = stores_past_caches(context, operands), in_row(plan, operands.out)
    row = part(coefficients, begin, size)
    for k in range(times):
        o, stop = first + k * plan.channels * plan.run, last + k * plan.channels * plan.run
        _write_part(plan, past_caches, o, stop, operands, row)
    if past_caches:
        fence()


@inlined
def write_weighted(context, plan, real, t, operands, coefficients, times, first, last):
    """`write`, where the correction of a gradient goes by weights."""
    past_caches, (begin, size) = stores_past_caches(context, operands), in_row(plan, operands.out)
    row, room = part(coefficients, begin, size), plan.weights_room
    weighted = weighted_by(operands, context.tile_weights, room * context.threads, room * t, room)
    for k in range(times):
        o, stop = first + k * plan.channels * plan.run, last + k * plan.channels * plan.run
        _write_weighted(plan, past_caches, o, stop, operands, weighted, row)
    if past_caches:
        fence()
