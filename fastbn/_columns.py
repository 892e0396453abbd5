"""Kernels where neighbouring values differ in channel: the data as a matrix of wide rows.

Channels last, (N, D) and short runs: a row holds WIDTH columns, a whole number of samples (C * L
values each), so that even three channels give long vectors. What is left over after the last
whole row is a shorter row.
"""

import numpy as np

from . import _plan
from ._intrinsics import fence
from ._jit import block
from ._runs import EIGHT, ONE, ZERO, same_memory, write_run


@block
def _add_row(x, dy, o, n, shift, s1, s2):
    """Add a row's d and d * d, d = x - shift (with ``dy``: dy and dy * d) to its columns' sums."""
    for j in range(n):
        d = np.float64(x[o + j]) - shift[j]
        u = d if dy is None else np.float64(dy[o + j])
        s1[j] += u
        s2[j] += u * d


@block
def _add_eight_rows(x, dy, o, width, n, shift, s1, s2):
    """`_add_row` for eight rows: the sums are loaded and stored once for all of them.

    Eight rows take 0.8 of the time of twice four at (100352, 64), float32.
    """
    o1 = o + width
    o2 = o1 + width
    o3 = o2 + width
    o4 = o3 + width
    o5 = o4 + width
    o6 = o5 + width
    o7 = o6 + width
    for j in range(n):
        d0 = np.float64(x[o + j]) - shift[j]
        d1 = np.float64(x[o1 + j]) - shift[j]
        d2 = np.float64(x[o2 + j]) - shift[j]
        d3 = np.float64(x[o3 + j]) - shift[j]
        d4 = np.float64(x[o4 + j]) - shift[j]
        d5 = np.float64(x[o5 + j]) - shift[j]
        d6 = np.float64(x[o6 + j]) - shift[j]
        d7 = np.float64(x[o7 + j]) - shift[j]
        if dy is None:
            u0, u1, u2, u3, u4, u5, u6, u7 = d0, d1, d2, d3, d4, d5, d6, d7
        else:
            u0, u1 = np.float64(dy[o + j]), np.float64(dy[o1 + j])
            u2, u3 = np.float64(dy[o2 + j]), np.float64(dy[o3 + j])
            u4, u5 = np.float64(dy[o4 + j]), np.float64(dy[o5 + j])
            u6, u7 = np.float64(dy[o6 + j]), np.float64(dy[o7 + j])
        s1[j] += ((u0 + u1) + (u2 + u3)) + ((u4 + u5) + (u6 + u7))
        s2[j] += ((u0 * d0 + u1 * d1) + (u2 * d2 + u3 * d3)) + (
            (u4 * d4 + u5 * d5) + (u6 * d6 + u7 * d7)
        )


@block
def _expand(values, first, run, n, out):
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


@block
def _fold(sums, first, run, n, out):
    """Add the columns' sums to their channels: `_expand` backwards."""
    channels = np.uintp(out.size)
    j, c = ZERO, first
    while j < n:
        if run == ONE:
            length = min(channels - c, n - j)
            for i in range(length):
                out[c + i] += sums[j + i]
            j, c = j + length, ZERO
        else:
            s = 0.0
            for i in range(run):
                s += sums[j + i]
            out[c] += s
            j, c = j + run, (c + ONE) % channels


@block
def reduce(t, threads, plan, x, dy, work):
    """Leave the partial sums of the t-th share of the tiles in ``work``, as (2, PARTS, C)."""
    c, run, parts = plan[_plan.C], plan[_plan.L], plan[_plan.PARTS]
    width, tile, height = plan[_plan.WIDTH], plan[_plan.TILE], plan[_plan.HEIGHT]
    total = plan[_plan.N] * c * run
    rows, rest = total // width, total % width
    tiles = (width + tile - ONE) // tile
    base = plan[_plan.SCRATCH] + (tile + tile + tile) * t
    shift, s1 = work[base : base + tile], work[base + tile : base + tile + tile]
    s2 = work[base + tile + tile : base + tile + tile + tile]
    channel_shift = work[plan[_plan.SHIFT] : plan[_plan.SHIFT] + c]
    reached = min(c, tile // run)  # channels of a tile
    blocks = parts * tiles
    for k in range(blocks * t // threads, blocks * (t + ONE) // threads):
        i, start = k // tiles, k % tiles * tile
        n = min(tile, width - start)
        first = start // run
        _expand(channel_shift, first, run, n, shift)
        for j in range(n):
            s1[j] = 0.0
            s2[j] = 0.0
        row, stop = i * height, min(rows, (i + ONE) * height)
        while row + EIGHT <= stop:
            _add_eight_rows(x, dy, row * width + start, width, n, shift, s1, s2)
            row += EIGHT
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
    m, b = coefficients[:wide], coefficients[wide : wide + wide]
    c, a = (
        coefficients[wide + wide : wide + wide + wide],
        coefficients[wide + wide + wide :],
    )
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
