"""Kernels where neighbouring values differ in channel: the data as a matrix of wide rows.

Channels last, (N, D) and short runs: a row holds WIDTH columns, a whole number of samples (C * L
values each), so that even three channels give long vectors. What is left over after the last
whole row is a shorter row.
"""

import numpy as np

from . import _plan
from ._intrinsics import (
    VECTOR_BYTES,
    accumulate_row,
    accumulate_row_one,
    accumulate_rows,
    accumulate_rows_ahead,
    accumulate_rows_one,
    fence,
)
from ._jit import block, reduction
from ._runs import EIGHT, FOUR, ONE, ZERO, same_memory, write_run


@block
def _add_row(x, dy, o, n, shift, s1, s2):
    """Add one row of n values to the sums of its columns; see `accumulate`."""
    lanes, j = np.uintp(VECTOR_BYTES // x.itemsize), ZERO
    while j + lanes <= n:
        accumulate_row(x, dy, o, n, shift, s1, s2, j)
        j += lanes
    while j < n:
        accumulate_row_one(x, dy, o, n, shift, s1, s2, j)
        j += ONE


@block
def _add_rows(x, dy, o, width, n, shift, s1, s2, ahead):
    """`_add_row` for eight rows, four with ``dy``: their sums are loaded and stored once.

    Prefetching the next rows takes a reduction of 24 MB, beyond the caches, from 1.09 to 0.86 ms.
    """
    lanes, j = np.uintp(VECTOR_BYTES // x.itemsize), ZERO
    if ahead:
        while j + lanes <= n:
            accumulate_rows_ahead(x, dy, o, width, shift, s1, s2, j)
            j += lanes
    while j + lanes <= n:
        accumulate_rows(x, dy, o, width, shift, s1, s2, j)
        j += lanes
    while j < n:
        accumulate_rows_one(x, dy, o, width, shift, s1, s2, j)
        j += ONE


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
def reduce(t, threads, plan, x, dy, work):
    """Leave the partial sums of the t-th share of the tiles in ``work``, as (2, PARTS, C)."""
    c, run, parts = plan[_plan.C], plan[_plan.L], plan[_plan.PARTS]
    width, tile, height = plan[_plan.WIDTH], plan[_plan.TILE], plan[_plan.HEIGHT]
    total = plan[_plan.N] * c * run
    rows, rest = total // width, total % width
    tiles = (width + tile - ONE) // tile
    room = plan[_plan.TILE_ROOM]
    base = plan[_plan.SCRATCH] + (room + room + room) * t
    shift = work[base : base + tile]
    s1 = work[base + room : base + room + tile]
    s2 = work[base + room + room : base + room + room + tile]
    channel_shift = work[plan[_plan.SHIFT] : plan[_plan.SHIFT] + c]
    reached = min(c, tile // run)  # channels of a tile
    step = EIGHT if dy is None else FOUR
    ahead = plan[_plan.AHEAD] != ZERO
    blocks = parts * tiles
    for k in range(blocks * t // threads, blocks * (t + ONE) // threads):
        i, start = k // tiles, k % tiles * tile
        n = min(tile, width - start)
        first = start // run
        expand(channel_shift, first, run, n, shift)
        for j in range(n):
            s1[j] = 0.0
            s2[j] = 0.0
        row, stop = i * height, min(rows, (i + ONE) * height)
        while row + step <= stop:
            _add_rows(x, dy, row * width + start, width, n, shift, s1, s2, ahead)
            row += step
        while row < stop:
            _add_row(x, dy, row * width + start, n, shift, s1, s2)
            row += ONE
        if i == parts - ONE and rest > start:
            _add_row(x, dy, rows * width + start, min(n, rest - start), shift, s1, s2)
        for which in range(2):
            part = (np.uintp(which) * parts + i) * c
            out = work[part : part + c]
            for j in range(first, min(c, first + reached)):
                out[j] = 0.0
            _fold(s1 if which == 0 else s2, first, run, n, out)


@block
def write(t, threads, plan, x, dy, out, coefficients):
    """Write the t-th share of the rows; the coefficients are as wide as a row."""
    wide = plan[_plan.WRITE_WIDTH]
    total = plan[_plan.N] * plan[_plan.C] * plan[_plan.L]
    m, b, c, a = coefficients[0], coefficients[1], coefficients[2], coefficients[3]
    o, stop = total * t // threads, total * (t + ONE) // threads
    inplace = same_memory(out, x) or same_memory(out, dy)
    stream = plan[_plan.STREAM] != ZERO and not inplace
    while o < stop:
        p = o % wide
        n = min(stop - o, wide - p)
        write_run(out, x, dy, o, n, m, b, c, a, p, stream, inplace)
        o += n
    if stream:
        fence()
