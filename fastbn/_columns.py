"""Kernels where neighbouring values differ in channel: the data as a matrix of wide rows.

Channels last, (N, D) and short runs: a row holds WIDTH columns, a whole number of samples (C * L
values each), so that even three channels give long vectors. What is left over after the last
whole row is a shorter row.
"""

import numpy as np

from . import _plan
from ._intrinsics import (
    accumulate_eight,
    accumulate_eight_one,
    accumulate_exact,
    accumulate_exact_one,
    accumulate_four,
    accumulate_four_one,
    accumulate_middle,
    accumulate_narrow,
    affine,
    affine_one,
    affine_stream,
    fence,
)
from ._jit import block, reduction
from ._runs import EIGHT, FOUR, ONE, ZERO, lanes_of, streams, to_line


def _adder(rows, vectors, accumulate, accumulate_one):
    """Add rows of ``width`` values to the sums of their first n columns, some at once.

    It returns where the rows begin that are left.
    """
    rows, vectors = np.uintp(rows), np.uintp(vectors)

    @block
    def add(x, dy, o, stop, width, n, shift, s1, s2):
        lanes, step = vectors * lanes_of(x), rows * width
        while o + step <= stop:
            j = ZERO
            while j + lanes <= n:
                accumulate(x, dy, o, width, shift, s1, s2, j)
                j += lanes
            while j < n:
                accumulate_one(x, dy, o, width, shift, s1, s2, j)
                j += ONE
            o += step
        return o

    return add


# Memory is fast in its own order only: 103 MB of 64 channels, 256 bytes a row, are summed in 3.0
# ms, like a bare read, if a row's vectors are taken side by side; in 5.1 one after the other.
_add_narrow = _adder(8, 4, accumulate_narrow, accumulate_eight_one)
_add_middle = _adder(4, 8, accumulate_middle, accumulate_four_one)
# Wider rows would need more registers than there are. In the caches, eight are best; beyond them
# four that are prefetched: 103 MB of 256 channels take 2.5 ms, like a bare read, instead of 4.7.
_add_wide = _adder(8, 1, accumulate_eight, accumulate_eight_one)
_add_ahead = _adder(4, 1, accumulate_four, accumulate_four_one)
_add_exactly = _adder(1, 1, accumulate_exact, accumulate_exact_one)


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
    """Add the columns' sums to their channels: `expand` backwards."""
    channels = np.uintp(out.size)
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
def reduce(t, threads, plan, exact, x, dy, work, values):
    """Leave the partial sums of the t-th share of the tiles in ``work``, as (2, PARTS, C)."""
    c, run, parts = plan[_plan.C], plan[_plan.L], plan[_plan.PARTS]
    width, tile, height = plan[_plan.WIDTH], plan[_plan.TILE], plan[_plan.HEIGHT]
    total = plan[_plan.N] * c * run
    rows, rest = total // width, total % width
    tiles = (width + tile - ONE) // tile
    room = plan[_plan.TILE_ROOM]
    base = plan[_plan.SCRATCH] + (room + room) * t
    s1, s2 = work[base : base + tile], work[base + room : base + room + tile]
    base = EIGHT * plan[_plan.ROOM] + room * t
    shift = values[base : base + tile]
    channel_shift = work[plan[_plan.SHIFT] : plan[_plan.SHIFT] + c]
    reached = min(c, tile // run)  # channels of a tile
    ahead = plan[_plan.AHEAD if dy is None else _plan.AHEAD_BACKWARD] != ZERO
    narrow = np.uintp(_plan.NARROW // x.itemsize)
    blocks = parts * tiles
    for k in range(blocks * t // threads, blocks * (t + ONE) // threads):
        i, start = k // tiles, k % tiles * tile
        n = min(tile, width - start)
        first = start // run
        expand(channel_shift, first, run, n, shift)
        for j in range(n):
            s1[j] = 0.0
            s2[j] = 0.0
        o, stop = i * height * width + start, min(rows, (i + ONE) * height) * width + start
        if not exact:
            if width == narrow:
                o = _add_narrow(x, dy, o, stop, width, n, shift, s1, s2)
            elif width == narrow + narrow:
                o = _add_middle(x, dy, o, stop, width, n, shift, s1, s2)
            elif ahead:
                o = _add_ahead(x, dy, o, stop, width, n, shift, s1, s2)
            else:
                o = _add_wide(x, dy, o, stop, width, n, shift, s1, s2)
        _add_exactly(x, dy, o, stop, width, n, shift, s1, s2)
        if i == parts - ONE and rest > start:
            o = rows * width + start
            _add_exactly(x, dy, o, o + width, width, min(n, rest - start), shift, s1, s2)
        for which in range(2):
            part = (np.uintp(which) * parts + i) * c
            out = work[part : part + c]
            for j in range(first, min(c, first + reached)):
                out[j] = 0.0
            _fold(s1 if which == 0 else s2, first, run, n, out)


@block
def coefficients(plan, k, out, values):
    """The k-th coefficients of a wide row, and where in the workspace they begin.

    Behind as many values as make them lie on cache lines where the output does.
    """
    room, lanes = plan[_plan.ROOM], lanes_of(out)
    start = (FOUR + k) * room
    if plan[_plan.ALIGN] != ZERO:
        start += (lanes - to_line(out, ZERO)) % lanes
    return values[start : start + plan[_plan.WRITE_WIDTH] + lanes]


@block
def _write_values(o, stop, wide, x, dy, out, m, b, c, a):
    """Write values one by one, as far as the next whole vector or the end."""
    while o < stop:
        affine_one(out, x, dy, o, m, b, c, a, o % wide)
        o += ONE
    return o


@block
def write(t, threads, plan, x, dy, out, values):
    """Write the t-th share of the values, in memory order.

    All vectors lie on cache lines, wherever rows end: a row's last vector may reach into the
    next one, and so do the coefficients.
    """
    wide, lanes = plan[_plan.WRITE_WIDTH], lanes_of(out)
    total = plan[_plan.N] * plan[_plan.C] * plan[_plan.L]
    m = coefficients(plan, np.uintp(0), out, values)
    b = coefficients(plan, np.uintp(1), out, values)
    c = coefficients(plan, np.uintp(2), out, values)
    a = coefficients(plan, np.uintp(3), out, values)
    o, stop = total * t // threads, total * (t + ONE) // threads
    stream = streams(plan, out, x, dy)
    head = min(stop, o + to_line(out, o)) if plan[_plan.ALIGN] != ZERO else o
    o = _write_values(o, head, wide, x, dy, out, m, b, c, a)
    last = stop - (stop - o) % lanes
    p = o % wide
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
