"""Kernels where a channel is a contiguous run: (N, C, L) with L of 16 and more."""

import numpy as np

from . import _plan
from ._intrinsics import (
    affine,
    affine_one,
    affine_pair,
    affine_pair_stream,
    affine_stream,
    fence,
    sum_run,
    sum_run_exact,
    sum_runs,
)
from ._jit import block, glue, span
from ._runs import ONE, THREE, TWO, ZERO, at_once, lanes_of, shifts, streams, to_line

LONG = np.uintp(1024)  # values from which a run is summed as several
CHUNK_BYTES = np.uintp(2048)  # that are summed before they are added to the rest of a run's sum


@block
def _sum_together(x, dy, o, n, distance, shift):
    """The sums of several runs at once; of float64, for which no type is wider, in chunks."""
    if x.itemsize == 4:
        return sum_runs(x, dy, o, n, distance, shift)
    chunk = CHUNK_BYTES // np.uintp(x.itemsize)
    s1 = s2 = 0.0
    while n > ZERO:
        m = n if n < TWO * chunk else chunk
        r1, r2 = sum_runs(x, dy, o, m, distance, shift)
        s1, s2 = s1 + r1, s2 + r2
        o, n = o + m, n - m
    return s1, s2


@block
def _sum_piece(x, dy, o, m, shift):
    """The sums of m values from o on, of a long run as of several shorter ones and a rest."""
    if m < LONG:
        return sum_run(x, dy, o, m, shift)
    runs, lanes = at_once(dy), lanes_of(x)
    step = (m - lanes) // (runs * lanes) * lanes
    s1, s2 = _sum_together(x, dy, o, step, step, shift)
    r1, r2 = sum_run(x, dy, o + runs * step, m - runs * step, shift)
    return s1 + r1, s2 + r2


@block
def _sum_block(plan, exact, x, dy, work, shift, part, first, last):
    """Leave the part-th partial sums of channels first to last in ``work``, as (2, PARTS, C)."""
    n, c, length = plan[_plan.N], plan[_plan.C], plan[_plan.L]
    samples, piece, second = plan[_plan.SAMPLES], plan[_plan.PIECE], plan[_plan.PARTS] * c
    pieces = (length + piece - ONE) // piece
    i, start = part // pieces, part % pieces * piece
    m = min(piece, length - start)
    sums = part * c
    for j in range(first, last):
        work[sums + j] = 0.0
        work[second + sums + j] = 0.0
    sample, stop = i * samples, min(n, (i + ONE) * samples)
    # Several samples at once, which lie far from each other; then those that are left.
    while not exact and sample + at_once(dy) <= stop:
        for j in range(first, last):
            o = (sample * c + j) * length + start
            s1, s2 = _sum_together(x, dy, o, m, c * length, shift[j])
            work[sums + j] += s1
            work[second + sums + j] += s2
        sample += at_once(dy)
    for k in range(sample, stop):
        for j in range(first, last):
            o = (k * c + j) * length + start
            if exact:
                s1, s2 = sum_run_exact(x, dy, o, m, shift[j])
            else:
                s1, s2 = _sum_piece(x, dy, o, m, shift[j])
            work[sums + j] += s1
            work[second + sums + j] += s2


@glue
def reduce(t, plan, exact, x, dy, work, values, start, stop):
    """Leave the partial sums of blocks ``start`` to ``stop``, which follow the order of memory."""
    c, channels, piece = plan[_plan.C], plan[_plan.CHANNELS], plan[_plan.PIECE]
    pieces = (plan[_plan.L] + piece - ONE) // piece
    groups = (c + channels - ONE) // channels
    shift, k = shifts(plan, values), start
    while k < stop:
        part = k // (groups * pieces) * pieces + k % pieces
        group = k // pieces % groups
        # Neighbouring blocks at once, sample by sample: each place of memory is read in order.
        together = min(stop - k, groups - group) if pieces == ONE else ONE
        first, last = group * channels, min(c, (group + together) * channels)
        _sum_block(plan, exact, x, dy, work, shift, part, first, last)
        k += together


@block
def _write_values(o, stop, j, end, length, channels, x, dy, out, m, b, c, a):
    """Write values one by one: the first is of channel j, whose run ends at ``end``."""
    while o < stop:
        affine_one(out, x, dy, o, m, b, c, a, j)
        o += ONE
        if o == end:
            j = j + ONE if j + ONE < channels else ZERO
            end += length
    return j, end


@glue
def write(plan, x, dy, out, values, o, stop):
    """Write the output from o to ``stop``.

    All vectors lie on cache lines, whatever the runs in them: 7x7 planes take 1.3 times a copy,
    where a vector that overlaps its neighbour at each end of a run takes 2.8.
    """
    channels, length, lanes = plan[_plan.C], plan[_plan.L], lanes_of(out)
    room = plan[_plan.ROOM]
    m, b = span(values, ZERO, channels), span(values, room, channels)
    c, a = span(values, TWO * room, channels), span(values, THREE * room, channels)
    stream = streams(plan, out, x, dy)
    row = o // length
    j, end = row % channels, (row + ONE) * length
    head = min(stop, o + to_line(out, o)) if plan[_plan.ALIGN] != ZERO else o
    j, end = _write_values(o, head, j, end, length, channels, x, dy, out, m, b, c, a)
    o, last = head, stop - (stop - head) % lanes
    while o < last:
        full = o + (min(end, last) - o) // lanes * lanes
        mj, bj, cj, aj = m[j], b[j], c[j], a[j]
        if stream:
            while o < full:
                affine_stream(out, x, dy, o, mj, bj, cj, aj, ZERO)
                o += lanes
        while o < full:
            affine(out, x, dy, o, mj, bj, cj, aj, ZERO)
            o += lanes
        if o >= last and o < end:
            break
        following = j + ONE if j + ONE < channels else ZERO
        if o < end:
            if stream:
                affine_pair_stream(out, x, dy, o, m, b, c, a, j, following, end - o)
            else:
                affine_pair(out, x, dy, o, m, b, c, a, j, following, end - o)
            o += lanes
        j, end = following, end + length
    _write_values(o, stop, j, end, length, channels, x, dy, out, m, b, c, a)
    if stream:
        fence()
