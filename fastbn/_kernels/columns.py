"""Kernels where neighbouring values differ in channel: the data as a matrix of wide rows.

Channels last, (N, D) and short runs: a row holds `plan.width` columns, a whole number of samples
(C * L values each), so that even three channels give long vectors. What is left over after the last
whole row is a shorter row.
"""

import numpy as np

from .._runtime.jit import apart, array_at, inlined, inner, span
from .abi import ALIASING_BYTES
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
    stores_past_caches,
    to_line,
    weighted_by,
)

ALIASING = np.uintp(ALIASING_BYTES)


@apart
def _spread(weights, plan, sample, step, count, channel, n, out, distance):
    """The weights of n columns, from a sample's channel on, for so many rows of ``out``.

    Rows lie ``distance`` apart, ``step`` samples further on each. What a vector leaves beyond its
    place is written over by what follows.
    """
    channels, run, lanes = plan.channels, plan.run, lanes_of(out)
    longest = channels if run == ONE else run
    for row in range(count):
        o, stop, w, c = row * distance, row * distance + n, lanes + sample * run, channel
        length = channels - channel if run == ONE else run
        while o < stop:
            for i in range(ZERO, min(length, stop - o), lanes):
                if run == ONE:
                    repeat(out, weights, o + i, w)
                else:
                    copy_vector(out, weights, o + i, w + i)
            o, c, length = o + length, c + ONE, longest
            if run == ONE or c == channels:
                c, w = ZERO, w + run
        sample += step


@inner
def _beside(weights, plan, sample, step, count, channel, n, out):
    """Put the weights of some rows, if there are any, where they lie as the columns do."""
    if weights is not None:
        _spread(weights, plan, sample, step, count, channel, n, out, plan.weights_columns)


@inner
def _scratch(context, plan, real, t, weights):
    """A thread's room for weights beside the columns; none where there are no weights."""
    room = ZERO if weights is None else plan.weights_room
    return span(array_at(context.tile_weights, room * context.threads, real), room * t, room)


@inner
def _at_once(plan, weights):
    """Columns at once."""
    return plan.tile_room if weights is None else plan.weights_columns


@inner
def _add_interleaved(plan, tile, o, stop, operands, scratch, coefficients, s1, s2, vectors, chosen):
    """Add rows to the sums of a tile's columns, several at once.

    These lie far from each other: one after the other in as many places of memory. Then those that
    are left. The last of so many vectors may reach beyond what is wanted: what it reads must exist,
    and the sums it leaves there mean nothing. With ``chosen``, of the columns where vectors begin:
    in float64, and only those.
    """
    (sample, channel, n), width = tile, plan.width
    each, apart_by = width // (plan.channels * plan.run), plan.weights_columns
    lanes, at_once = lanes_of(operands.x), runs_at_once(operands.dy)
    rows = (stop - o) // (at_once * width)
    distance, columns = rows * width, weighted_by(operands, scratch)
    for _ in range(rows):
        _beside(operands.weights, plan, sample, rows * each, at_once, channel, n, scratch)
        for k in range(vectors):
            j = k * lanes if chosen is None else np.uintp(chosen[k])
            if chosen is None:
                add_rows(columns, o, coefficients, s1, s2, j, j, distance, apart_by)
            else:
                add_rows_exactly(columns, o, coefficients, s1, s2, j, j, distance, apart_by)
        o += width
        sample += each
    o += (at_once - ONE) * distance
    sample += (at_once - ONE) * rows * each
    left = (stop - o) // width
    _beside(operands.weights, plan, sample, each, left, channel, n, scratch)
    for k in range(vectors if left != ZERO else ZERO):
        j = k * lanes if chosen is None else np.uintp(chosen[k])
        if chosen is None:
            add_few(columns, o, coefficients, s1, s2, j, j, width, apart_by, left)
        else:
            add_few_exactly(columns, o, coefficients, s1, s2, j, j, width, apart_by, left)


@apart
def _add_again(plan, tile, o, stop, operands, scratch, coefficients, s1, s2, vectors, chosen):
    _add_interleaved(plan, tile, o, stop, operands, scratch, coefficients, s1, s2, vectors, chosen)


@apart
def _add_exactly(plan, tile, o, stop, operands, scratch, coefficients, s1, s2):
    """Add row by row, in float64, and nothing but a tile's columns."""
    (sample, channel, n), lanes = tile, lanes_of(operands.x)
    whole, columns = n // lanes * lanes, weighted_by(operands, scratch)
    while o < stop:
        _beside(operands.weights, plan, sample, ZERO, ONE, channel, n, scratch)
        for j in range(ZERO, whole, lanes):
            add_exactly(columns, o, coefficients, s1, s2, j, j)
        for j in range(whole, n):
            add_exactly_one(columns, o, coefficients, s1, s2, j, j)
        o += plan.width
        sample += plan.width // (plan.channels * plan.run)


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
    parts, size, lanes = plan.parts, plan.size, lanes_of(operands.x)
    rows, rest, across = size // width, size % width, plan.blocks // plan.parts
    partial_sums = array_at(context.partial_sums, TWO * parts * c, np.float64)
    marks = array_at(context.needs_float64, c, np.float64)
    tile_sums = array_at(context.tile_sums, TWO * room * context.threads, np.float64)
    s1, s2 = span(tile_sums, TWO * room * t, room), span(tile_sums, TWO * room * t + room, room)
    chosen = span(array_at(context.chosen, room * context.threads, np.float64), room * t, room)
    own, scratch = part(tiles, room * t, room), _scratch(context, plan, real, t, operands.weights)
    # Where columns are channels, and vectors whole, nothing is repeated nor added up.
    direct = width == c and c % lanes == ZERO
    reach = (width + lanes - ONE) // lanes * lanes  # of a row's last vector
    safe = (size - reach) // width + ONE if reach <= size else ZERO
    k = first
    while k < last:
        i, start = k // across, k % across * plan.tile
        # Neighbouring tiles at once, as many as there is room for.
        most = max(ONE, _at_once(plan, operands.weights) // plan.tile)
        many = min(last - k, across - k % across, most)
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
        last_row, tail = rows * width + start, ZERO
        if i == parts - ONE and rest > start:
            tail = min(n, rest - start)
        each = width // (c * run)
        tile = i * plan.height * each, channel, n
        if exact:
            vectors = _choose(marks, channel, run, n, lanes, chosen)
            _add_again(plan, tile, o, stop, operands, scratch, columns, s1, s2, vectors, chosen)
        else:
            vectors = (n + lanes - ONE) // lanes
            _add_interleaved(plan, tile, o, stop, operands, scratch, columns, s1, s2, vectors, None)
        tile = (stop - start) // width * each, channel, n
        _add_exactly(plan, tile, stop, end, operands, scratch, columns, s1, s2)
        tile = rows * each, channel, tail
        _add_exactly(plan, tile, last_row, last_row + ONE, operands, scratch, columns, s1, s2)
        if not direct:
            total1 = span(partial_sums, i * c, c)
            total2 = span(partial_sums, (parts + i) * c, c)
            _fold(s1, s2, channel, run, n, total1, total2)


@inner
def wide(address, plan, real, out):
    """Coefficients of a wide row, and of a vector behind it.

    They begin behind as many values as make them lie on lines of the cache where the output does.
    """
    lanes, start = lanes_of(out), ZERO
    if plan.aligned != ZERO:
        start = (lanes - to_line(out, ZERO)) % lanes
    size = plan.write_width + lanes
    return span(array_at(address, start + size, real), start, size)


@inner
def values(narrow, wide_row, plan, real, out):
    """A coefficient as `write` takes it."""
    return wide(wide_row, plan, real, out)


@apart
def _write_values(o, stop, width, operands, coefficients, to_weights):
    """Write values one by one, as far as the next whole vector or the end."""
    while o < stop:
        affine_one(operands, o, coefficients, o % width, o + to_weights)
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


@inner
def _write_part(plan, past_caches, o, stop, operands, coefficients):
    """Write the output from o to ``stop``, at two places at once as far as there are two.

    These share the coefficients: backward, (25088, 128) takes 806 us, at one place 997 (AMD EPYC,
    2026-11). All vectors lie on cache lines, wherever rows end: a row's last vector may reach into
    the next one, and so do the coefficients.
    """
    width, lanes = plan.write_width, lanes_of(operands.out)
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
def _write_one_place(plan, past_caches, o, stop, operands, coefficients, to_weights):
    """Write the output from where a vector begins to ``stop``."""
    width, lanes = plan.write_width, lanes_of(operands.out)
    last, p = stop - (stop - o) % lanes, o % width
    while o < last:
        end = min(last, o + (width - p + lanes - ONE) // lanes * lanes)
        if past_caches:
            while o < end:
                affine_nontemporal(operands, o, coefficients, p, o + to_weights)
                o, p = o + lanes, p + lanes
        while o < end:
            affine(operands, o, coefficients, p, o + to_weights)
            o, p = o + lanes, p + lanes
        if p >= width:
            p -= width
    _write_values(last, stop, width, operands, coefficients, to_weights)


@inner
def _write_weighted(plan, past_caches, o, stop, operands, scratch, coefficients):
    """Write the output from o to ``stop``, so much at once as there is room for the weights of."""
    run, width, lanes = plan.run, plan.write_width, lanes_of(operands.out)
    sample, columns = plan.channels * run, weighted_by(operands, scratch)
    most = (plan.weights_room - run) // lanes * lanes - TWO * lanes
    while o < stop:
        head = min(stop, o + to_line(operands.out, o)) if plan.aligned != ZERO else o
        end, start = min(stop, head + most), o - o % run
        place = start % sample // run
        _beside(operands.weights, plan, start // sample, ZERO, ONE, place, end - start, scratch)
        _write_values(o, head, width, columns, coefficients, ZERO - start)
        _write_one_place(plan, past_caches, head, end, columns, coefficients, ZERO - start)
        o = end


@inner
def _write(plan, past_caches, o, stop, operands, weights, scratch, coefficients):
    if weights is None:
        _write_part(plan, past_caches, o, stop, operands, coefficients)
    else:
        _write_weighted(plan, past_caches, o, stop, operands, scratch, coefficients)


@inlined
def write(context, plan, real, t, operands, coefficients, times, first, last):
    """Write the output from ``first`` to ``last``, in so many samples."""
    weights, past_caches = operands.weights, stores_past_caches(context, operands)
    scratch = _scratch(context, plan, real, t, weights)
    for k in range(times):
        o, stop = first + k * plan.channels * plan.run, last + k * plan.channels * plan.run
        _write(plan, past_caches, o, stop, operands, weights, scratch, coefficients)
    if past_caches:
        fence()
