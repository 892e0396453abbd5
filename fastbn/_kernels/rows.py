"""Kernels where a channel is a contiguous run: (N, C, L), with long runs or few of them."""

import numpy as np

from .._runtime.jit import apart, array_at, inlined, inner, span
from .simd import (
    ONE,
    TWO,
    ZERO,
    affine,
    affine_nontemporal,
    affine_one,
    affine_pair,
    affine_pair_nontemporal,
    fence,
    in_place,
    lanes_of,
    of_channel,
    runs_at_once,
    stores_past_caches,
    sum_interleaved,
    sum_run,
    sum_run_exact,
    to_line,
)

LONG = np.uintp(1024)  # values from which a run is summed as several
CHUNK_BYTES = np.uintp(2048)  # that are summed before they are added to the rest of a run's sum


@inner
def _sum_interleaved(operands, o, n, distance, coefficients, w, w_distance):
    """The sums of several runs at once; of float64, for which no type is wider, in chunks."""
    if operands.x.itemsize <= 4:
        return sum_interleaved(operands, o, n, distance, coefficients, w, w_distance)
    chunk = CHUNK_BYTES // np.uintp(operands.x.itemsize)
    s1 = s2 = 0.0
    while n > ZERO:
        m = n if n < TWO * chunk else chunk
        r1, r2 = sum_interleaved(operands, o, m, distance, coefficients, w, w_distance)
        s1, s2 = s1 + r1, s2 + r2
        o, w, n = o + m, w + m, n - m
    return s1, s2


@apart
def _sum_exactly(plan, operands, o, w, n, count, first, last, sums, marks, coefficients):
    """Leave in `_sum_block`'s place the sums of channels that are marked, in float64."""
    distance, second, run = plan.channels * plan.run, plan.parts * plan.channels, plan.run
    for j in range(first, last):
        if marks[j] != 0.0:
            place, here = o + j * run, of_channel(coefficients, j)
            s1, s2 = sum_run_exact(operands, place, n, distance, here, w, run, count)
            sums[j], sums[second + j] = s1, s2


@inner
def _sum_block(plan, exact, operands, partial_sums, marks, coefficients, part, first, last):
    """Leave the part-th partial sums of channels first to last, in (2, parts, channels).

    If ``exact``, of channels that are marked only.
    """
    c, length, second = plan.channels, plan.run, plan.parts * plan.channels
    i, start = part // plan.pieces, part % plan.pieces * plan.piece
    n, distance = min(plan.piece, length - start), c * length
    sample, stop = i * plan.block_samples, min(plan.samples, (i + ONE) * plan.block_samples)
    sums, o = span(partial_sums, part * c, second + c), sample * distance + start
    lanes, runs = lanes_of(operands), runs_at_once(operands)
    w = lanes + sample * length + start
    if exact:
        count = stop - sample
        _sum_exactly(plan, operands, o, w, n, count, first, last, sums, marks, coefficients)
        return
    for j in range(first, last):
        sums[j] = sums[second + j] = 0.0
    # Several samples at once, which lie far from each other. Of those that are left, if they are
    # long, several parts of each; then all that is left of them.
    groups = (stop - sample) // runs if n >= lanes else ZERO
    left, step = stop - sample - groups * runs, ZERO
    if n >= LONG:
        step = (n - lanes) // (runs * lanes) * lanes
    for k in range(groups + (left if step != ZERO else ZERO)):
        size, gap, w_gap = (n, distance, length) if k < groups else (step, step, step)
        for j in range(first, last):
            place, here = o + j * length, of_channel(coefficients, j)
            s1, s2 = _sum_interleaved(operands, place, size, gap, here, w, w_gap)
            sums[j] += s1
            sums[second + j] += s2
        o += runs * distance if k < groups else distance
        w += runs * length if k < groups else length
    if left != ZERO:
        o = (stop - left) * distance + start + runs * step
        w = lanes + (stop - left) * length + start + runs * step
        for j in range(first, last):
            place, here, rest = o + j * length, of_channel(coefficients, j), n - runs * step
            s1, s2 = sum_run(operands, place, rest, distance, here, w, length, left)
            sums[j] += s1
            sums[second + j] += s2


@inlined
def reduce(context, plan, real, t, exact, operands, coefficients, tiles, first, last):
    """Leave the partial sums of blocks ``first`` to ``last``, which follow the order of memory."""
    c, pieces = plan.channels, plan.pieces
    partial_sums = array_at(context.partial_sums, TWO * plan.parts * c, np.float64)
    marks = array_at(context.needs_float64, c, np.float64)
    k = first
    while k < last:
        part = k // (c * pieces) * pieces + k % pieces
        channel = k // pieces % c
        # Neighbouring blocks at once, sample by sample: each place of memory is read in order.
        blocks = min(last - k, c - channel) if pieces == ONE else ONE
        end = channel + blocks
        _sum_block(plan, exact, operands, partial_sums, marks, coefficients, part, channel, end)
        k += blocks


@inner
def _begin(plan, operands, o):
    """The channel of the value at o, where its run ends, and where its sample's weights begin."""
    row = o // plan.run
    begin = lanes_of(operands) + row // plan.channels * plan.run
    return row % plan.channels, (row + ONE) * plan.run, begin


@apart
def _write_values(plan, o, stop, operands, coefficients):
    """Write values one by one."""
    j, end, begin = _begin(plan, operands, o)
    while o < stop:
        affine_one(operands, o, coefficients, j, begin + (o + plan.run - end))
        o += ONE
        if o == end:
            j = j + ONE if j + ONE < plan.channels else ZERO
            begin += plan.run if j == ZERO else ZERO
            end += plan.run


@inner
def _write_part(plan, past_caches, o, stop, operands, coefficients):
    """Write the output from o to ``stop``.

    All vectors lie on cache lines, whatever the runs in them: 7x7 planes take 1.3 times a copy,
    where a vector that overlaps its neighbour at each end of a run takes 2.8 (AMD EPYC, 2026-11).
    """
    channels, length, lanes = plan.channels, plan.run, lanes_of(operands)
    head = min(stop, o + to_line(operands.out, o)) if plan.aligned != ZERO else o
    if o < head:
        _write_values(plan, o, head, operands, coefficients)
    o, last = head, stop - (stop - head) % lanes
    j, end, begin = _begin(plan, operands, o)
    while o < last:
        full = o + (min(end, last) - o) // lanes * lanes
        here, start = of_channel(coefficients, j), end - length
        if past_caches:
            while o < full:
                affine_nontemporal(operands, o, here, ZERO, begin + (o - start))
                o += lanes
        while o < full:
            affine(operands, o, here, ZERO, begin + (o - start))
            o += lanes
        if o >= last and o < end:
            break
        following, w = j + ONE if j + ONE < channels else ZERO, begin + (o - start)
        begin += length if following == ZERO else ZERO
        if o < end:
            places = w, following, begin, end - o
            if past_caches:
                affine_pair_nontemporal(operands, o, coefficients, j, *places)
            else:
                affine_pair(operands, o, coefficients, j, *places)
            o += lanes
        j, end = following, end + length
    if o < stop:
        _write_values(plan, o, stop, operands, coefficients)


@inner
def _write_short(plan, o, stop, operands, coefficients):
    """Write the output from o to ``stop``, of runs shorter than a vector.

    A vector a run, which reaches into the runs behind, and is written over by theirs; one by one in
    place of what has yet to be read.
    """
    channels, length, lanes = plan.channels, plan.run, lanes_of(operands)
    end = (o // length + ONE) * length
    first = min(stop, end) if o + length != end else o
    if in_place(operands):
        first = stop
    _write_values(plan, o, first, operands, coefficients)
    o = first
    j, end, begin = _begin(plan, operands, o)
    while o + lanes <= stop:
        affine(operands, o, of_channel(coefficients, j), ZERO, begin)
        j = j + ONE if j + ONE < channels else ZERO
        begin += length if j == ZERO else ZERO
        o, end = end, end + length
    _write_values(plan, o, stop, operands, coefficients)


@inlined
def write(context, plan, real, t, operands, coefficients, times, first, last):
    """Write the output from ``first`` to ``last``, in so many samples."""
    past_caches = stores_past_caches(context, operands)
    short = plan.run < lanes_of(operands)
    for k in range(times):
        further = k * plan.channels * plan.run
        o, stop = first + further, last + further
        if short:
            _write_short(plan, o, stop, operands, coefficients)
        else:
            _write_part(plan, past_caches, o, stop, operands, coefficients)
    if past_caches:
        fence()


write_weighted = write
