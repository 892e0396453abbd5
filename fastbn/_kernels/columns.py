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
    fence,
    lanes_of,
    repeat,
    runs_at_once,
    stores_past_caches,
    to_line,
)

ALIASING = np.uintp(ALIASING_BYTES)


@inner
def _add_interleaved(x, dy, o, stop, width, shift, s1, s2, vectors, chosen):
    """Add rows of ``width`` values to the sums of their first columns, several at once.

    These lie far from each other: one after the other in as many places of memory. Then those that
    are left. The last of so many vectors may reach beyond what is wanted: what it reads must exist,
    and the sums it leaves there mean nothing. With ``chosen``, of the columns where vectors begin:
    in float64, and only those.
    """
    lanes, rows = lanes_of(x), (stop - o) // (runs_at_once(dy) * width)
    distance = rows * width
    for _ in range(rows):
        for k in range(vectors):
            if chosen is None:
                add_rows(x, dy, o, distance, shift, s1, s2, k * lanes)
            else:
                add_rows_exactly(x, dy, o, distance, shift, s1, s2, np.uintp(chosen[k]))
        o += width
    o += (runs_at_once(dy) - ONE) * distance
    left = (stop - o) // width
    for k in range(vectors if left != ZERO else ZERO):
        if chosen is None:
            add_few(x, dy, o, width, left, shift, s1, s2, k * lanes)
        else:
            add_few_exactly(x, dy, o, width, left, shift, s1, s2, np.uintp(chosen[k]))


@apart
def _add_again(x, dy, o, stop, width, shift, s1, s2, vectors, chosen):
    _add_interleaved(x, dy, o, stop, width, shift, s1, s2, vectors, chosen)


@apart
def _add_exactly(x, dy, o, stop, width, n, shift, s1, s2):
    """Add row by row, in float64, and nothing but the n columns."""
    lanes = lanes_of(x)
    whole = n // lanes * lanes
    while o < stop:
        for j in range(ZERO, whole, lanes):
            add_exactly(x, dy, o, shift, s1, s2, j)
        for j in range(whole, n):
            add_exactly_one(x, dy, o, shift, s1, s2, j)
        o += width


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


@inlined
def reduce(context, plan, real, t, exact, x, dy, first, last):
    """Leave the partial sums of blocks ``first`` to ``last``; if exact, of marked channels only."""
    c, run, width, room = plan.channels, plan.run, plan.width, plan.tile_room
    parts, size, lanes = plan.parts, np.uintp(x.size), lanes_of(x)
    rows, rest, tiles = size // width, size % width, plan.blocks // plan.parts
    partial_sums = array_at(context.partial_sums, TWO * parts * c, np.float64)
    marks = array_at(context.needs_float64, c, np.float64)
    shifts = array_at(context.shift, c, real)
    tile_sums = array_at(context.tile_sums, TWO * room * context.threads, np.float64)
    tile_shift = array_at(context.tile_shift, room * context.threads, real)
    s1, s2 = span(tile_sums, TWO * room * t, room), span(tile_sums, TWO * room * t + room, room)
    shift = span(tile_shift, room * t, room)
    chosen = span(array_at(context.chosen, room * context.threads, np.float64), room * t, room)
    # Where columns are channels, and vectors whole, nothing is repeated nor added up.
    direct = width == c and c % lanes == ZERO
    reach = (width + lanes - ONE) // lanes * lanes  # of a row's last vector
    safe = (size - reach) // width + ONE if reach <= size else ZERO
    k = first
    while k < last:
        i, start = k // tiles, k % tiles * plan.tile
        # Neighbouring tiles at once, as many as there is room for.
        many = min(last - k, tiles - k % tiles, max(ONE, room // plan.tile))
        n, channel = min(many * plan.tile, width - start), start // run
        k += many
        if direct:
            s1 = span(partial_sums, i * c + start, n)
            s2 = span(partial_sums, (parts + i) * c + start, n)
            shift = span(shifts, start, n)
        else:
            expand(shifts, channel, run, n, shift)
        _clear(s1)
        _clear(s2)
        o, below = i * plan.height * width + start, min(rows, (i + ONE) * plan.height)
        stop, end = max(o, min(below, safe) * width + start), below * width + start
        last_row, tail = rows * width + start, ZERO
        if i == parts - ONE and rest > start:
            tail = min(n, rest - start)
        if exact:
            vectors = _choose(marks, channel, run, n, lanes, chosen)
            _add_again(x, dy, o, stop, width, shift, s1, s2, vectors, chosen)
        else:
            vectors = (n + lanes - ONE) // lanes
            _add_interleaved(x, dy, o, stop, width, shift, s1, s2, vectors, None)
        _add_exactly(x, dy, stop, end, width, n, shift, s1, s2)
        _add_exactly(x, dy, last_row, last_row + ONE, width, tail, shift, s1, s2)
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


@apart
def _write_values(o, stop, width, x, dy, out, coefficients):
    """Write values one by one, as far as the next whole vector or the end."""
    while o < stop:
        affine_one(out, x, dy, o, *coefficients, o % width)
        o += ONE
    return o


@inner
def _distance(plan, out, n):
    """How far two places of n values lie from each other, where rows begin alike; 0: no two.

    At 2 KiB or nearly so, modulo 4 KiB: at a multiple of 4 KiB, loads at one place wait for stores
    at the other (4 KiB aliasing), which takes up to 5 times as long (AMD EPYC, 2026-11).
    """
    unit, size = plan.write_unit, np.uintp(out.itemsize)
    if plan.aligned == ZERO or unit * size % ALIASING == ZERO:
        return ZERO
    distance = n // (TWO * unit) * unit
    while distance != ZERO and (distance * size + ALIASING // FOUR) % ALIASING < ALIASING // TWO:
        distance -= unit
    return distance


@inner
def _write_part(plan, past_caches, o, stop, x, dy, out, coefficients):
    """Write the output from o to ``stop``, at two places at once as far as there are two.

    These share the coefficients: backward, (25088, 128) takes 806 us, at one place 997 (AMD EPYC,
    2026-11). All vectors lie on cache lines, wherever rows end: a row's last vector may reach into
    the next one, and so do the coefficients.
    """
    width, lanes = plan.write_width, lanes_of(out)
    head = min(stop, o + to_line(out, o)) if plan.aligned != ZERO else o
    o = _write_values(o, head, width, x, dy, out, coefficients)
    last = stop - (stop - o) % lanes
    distance, p = _distance(plan, out, last - o), o % width
    half = o + distance
    while o < half:
        end = min(half, o + (width - p + lanes - ONE) // lanes * lanes)
        if past_caches:
            while o < end:
                affine_twice_nontemporal(out, x, dy, o, *coefficients, p, distance)
                o, p = o + lanes, p + lanes
        while o < end:
            affine_twice(out, x, dy, o, *coefficients, p, distance)
            o, p = o + lanes, p + lanes
        if p >= width:
            p -= width
    o += distance
    while o < last:
        end = min(last, o + (width - p + lanes - ONE) // lanes * lanes)
        if past_caches:
            while o < end:
                affine_nontemporal(out, x, dy, o, *coefficients, p)
                o, p = o + lanes, p + lanes
        while o < end:
            affine(out, x, dy, o, *coefficients, p)
            o, p = o + lanes, p + lanes
        if p >= width:
            p -= width
    _write_values(last, stop, width, x, dy, out, coefficients)


@inlined
def write(context, plan, real, x, dy, out, times, first, last):
    """Write the output from ``first`` to ``last``, in so many samples."""
    coefficients = (
        wide(context.wide_center, plan, real, out),
        wide(context.wide_scale, plan, real, out),
        wide(context.wide_offset, plan, real, out),
        wide(context.wide_gain, plan, real, out),
    )
    past_caches = stores_past_caches(context, out, x, dy)
    for k in range(times):
        further = k * plan.channels * plan.run
        _write_part(plan, past_caches, first + further, last + further, x, dy, out, coefficients)
    if past_caches:
        fence()
