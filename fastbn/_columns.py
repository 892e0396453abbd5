"""Kernels where neighbouring values differ in channel: the data as a matrix of wide rows.

Channels last, (N, D) and short runs: a row holds WIDTH columns, a whole number of samples (C * L
values each), so that even three channels give long vectors. What is left over after the last
whole row is a shorter row.
"""

import numpy as np

from . import _plan
from ._intrinsics import (
    add_exactly,
    add_exactly_one,
    add_rows,
    affine,
    affine_one,
    affine_stream,
    affine_twice,
    affine_twice_stream,
    fence,
)
from ._jit import block, glue, reduction, span
from ._runs import FOUR, NINE, ONE, TWO, ZERO, at_once, lanes_of, shifts, streams, to_line
from ._vectors import PAGE_BYTES

PAGE = np.uintp(PAGE_BYTES)


@block
def _add_together(x, dy, o, stop, width, n, shift, s1, s2):
    """Add rows of ``width`` values to the sums of their first n columns, several at once.

    These lie far from each other: one after the other in as many places of memory. It returns where
    the rows begin that are left. The last vector may reach beyond the n columns: what it reads must
    exist, and the sums it leaves there mean nothing.
    """
    lanes, rows = lanes_of(x), (max(o, stop) - o) // (at_once(dy) * width)
    distance = rows * width
    for _ in range(rows):
        for j in range(ZERO, n, lanes):
            add_rows(x, dy, o, distance, shift, s1, s2, j)
        o += width
    return o + (at_once(dy) - ONE) * distance


@block
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


@block
def expand(values, first, run, n, out):
    """``out[j]`` = the value of the channel of column j, the first column being of ``first``."""
    channels = np.uintp(values.size)
    j, c = ZERO, first
    while j < n:
        if run == ONE:
            length = min(channels - c, n - j)
            for i in range(length):
                out[j + i] = values[c + i]
            j, c = j + length, ZERO
        else:
            for i in range(min(run, n - j)):
                out[j + i] = values[c]
            j, c = j + run, (c + ONE) % channels


@reduction
def _total(values, start, n):
    s = 0.0
    for i in range(n):
        s += values[start + i]
    return s


@block
def _fold(sums, first, run, n, out):
    """Add the columns' sums up by channel: `expand` backwards."""
    channels = np.uintp(out.size)
    for j in range(first, min(channels, first + n // run)):
        out[j] = 0.0
    j, c = ZERO, first
    while j < n:
        if run == ONE:
            length = min(channels - c, n - j)
            for i in range(length):
                out[c + i] += sums[j + i]
            j, c = j + length, ZERO
        else:
            out[c] += _total(sums, j, run)
            j, c = j + run, (c + ONE) % channels


@block
def _clear(sums):
    for j in range(np.uintp(sums.size)):
        sums[j] = 0.0


@glue
def reduce(t, plan, exact, x, dy, work, values, begin, end):
    """Leave the partial sums of blocks ``begin`` to ``end`` in ``work``, as (2, PARTS, C)."""
    c, run, parts = plan[_plan.C], plan[_plan.L], plan[_plan.PARTS]
    width, tile, height = plan[_plan.WIDTH], plan[_plan.TILE], plan[_plan.HEIGHT]
    size, lanes = np.uintp(x.size), lanes_of(x)
    rows, rest = size // width, size % width
    tiles = (width + tile - ONE) // tile
    room = plan[_plan.TILE_ROOM]
    base = plan[_plan.SCRATCH] + (room + room) * t
    s1, s2 = span(work, base, room), span(work, base + room, room)
    shift = span(values, NINE * plan[_plan.ROOM] + room * t, room)
    # Where columns are channels, and vectors whole, nothing is repeated nor added up.
    direct = width == c and c % lanes == ZERO
    for k in range(begin, end):
        i, start = k // tiles, k % tiles * tile
        n, first = min(tile, width - start), start // run
        if direct:
            s1, s2 = span(work, i * c + start, n), span(work, (parts + i) * c + start, n)
            shift = span(shifts(plan, values), start, n)
        else:
            expand(shifts(plan, values), first, run, n, shift)
        _clear(s1)
        _clear(s2)
        o, below = i * height * width + start, min(rows, (i + ONE) * height)
        reach = start + (n + lanes - ONE) // lanes * lanes  # of a row's last vector
        safe = (size - reach) // width + ONE if reach <= size else ZERO
        stop = min(below, safe) * width + start
        if not exact:
            o = _add_together(x, dy, o, stop, width, n, shift, s1, s2)
        _add_exactly(x, dy, o, below * width + start, width, n, shift, s1, s2)
        if i == parts - ONE and rest > start:
            o = rows * width + start
            _add_exactly(x, dy, o, o + ONE, width, min(n, rest - start), shift, s1, s2)
        if not direct:
            _fold(s1, first, run, n, span(work, i * c, c))
            _fold(s2, first, run, n, span(work, (parts + i) * c, c))


@block
def coefficients(plan, k, out, values):
    """The k-th coefficients of a wide row, and where in the workspace they begin.

    Behind as many values as make them lie on cache lines where the output does.
    """
    room, lanes = plan[_plan.ROOM], lanes_of(out)
    start = (FOUR + k) * room
    if plan[_plan.ALIGN] != ZERO:
        start += (lanes - to_line(out, ZERO)) % lanes
    return span(values, start, plan[_plan.WRITE_WIDTH] + lanes)


@block
def _write_values(o, stop, wide, x, dy, out, m, b, c, a):
    """Write values one by one, as far as the next whole vector or the end."""
    while o < stop:
        affine_one(out, x, dy, o, m, b, c, a, o % wide)
        o += ONE
    return o


@block
def _distance(plan, out, n):
    """How far two places of n values lie from each other, where rows begin alike; 0: no two.

    At half a page or nearly so, modulo a page: at a whole one, loads at one place wait for stores
    at the other, which takes up to 5 times as long.
    """
    unit, size = plan[_plan.WRITE_UNIT], np.uintp(out.itemsize)
    if plan[_plan.ALIGN] == ZERO or unit * size % PAGE == ZERO:
        return ZERO
    distance = n // (TWO * unit) * unit
    while distance != ZERO and (distance * size + PAGE // FOUR) % PAGE < PAGE // TWO:
        distance -= unit
    return distance


@glue
def write(plan, x, dy, out, values, o, stop):
    """Write the output from o to ``stop``, at two places at once as far as there are two.

    These share the coefficients: backward, (25088, 128) takes 806 us, at one place 997.
    All vectors lie on cache lines, wherever rows end: a row's last vector may reach into the
    next one, and so do the coefficients.
    """
    wide, lanes = plan[_plan.WRITE_WIDTH], lanes_of(out)
    m = coefficients(plan, np.uintp(0), out, values)
    b = coefficients(plan, np.uintp(1), out, values)
    c = coefficients(plan, np.uintp(2), out, values)
    a = coefficients(plan, np.uintp(3), out, values)
    stream = streams(plan, out, x, dy)
    head = min(stop, o + to_line(out, o)) if plan[_plan.ALIGN] != ZERO else o
    o = _write_values(o, head, wide, x, dy, out, m, b, c, a)
    last = stop - (stop - o) % lanes
    distance, p = _distance(plan, out, last - o), o % wide
    half = o + distance
    while o < half:
        end = min(half, o + (wide - p + lanes - ONE) // lanes * lanes)
        if stream:
            while o < end:
                affine_twice_stream(out, x, dy, o, m, b, c, a, p, distance)
                o, p = o + lanes, p + lanes
        while o < end:
            affine_twice(out, x, dy, o, m, b, c, a, p, distance)
            o, p = o + lanes, p + lanes
        if p >= wide:
            p -= wide
    o += distance
    while o < last:
        end = min(last, o + (wide - p + lanes - ONE) // lanes * lanes)
        if stream:
            while o < end:
                affine_stream(out, x, dy, o, m, b, c, a, p)
                o, p = o + lanes, p + lanes
        while o < end:
            affine(out, x, dy, o, m, b, c, a, p)
            o, p = o + lanes, p + lanes
        if p >= wide:
            p -= wide
    _write_values(last, stop, wide, x, dy, out, m, b, c, a)
    if stream:
        fence()
