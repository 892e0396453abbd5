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
    lanes_of,
    runs_at_once,
    same_memory,
    stores_past_caches,
    sum_interleaved,
    sum_run,
    sum_run_exact,
    to_line,
)

LONG = np.uintp(1024)  # values from which a run is summed as several
CHUNK_BYTES = np.uintp(2048)  # that are summed before they are added to the rest of a run's sum


@inner
def _sum_interleaved(x, dy, o, n, distance, shift):
    """The sums of several runs at once; of float64, for which no type is wider, in chunks."""
    if x.itemsize == 4:
        return sum_interleaved(x, dy, o, n, distance, shift)
    chunk = CHUNK_BYTES // np.uintp(x.itemsize)
    s1 = s2 = 0.0
    while n > ZERO:
        m = n if n < TWO * chunk else chunk
        r1, r2 = sum_interleaved(x, dy, o, m, distance, shift)
        s1, s2 = s1 + r1, s2 + r2
        o, n = o + m, n - m
    return s1, s2


@apart
def _sum_exactly(plan, x, dy, o, n, count, first, last, partial_sums, marks, shift):
    """Leave in `_sum_block`'s place the sums of channels that are marked, in float64."""
    distance, second = plan.channels * plan.run, plan.parts * plan.channels
    for j in range(first, last):
        if marks[j] != 0.0:
            place = o + j * plan.run
            sums = sum_run_exact(x, dy, place, n, count, distance, shift[j])
            partial_sums[j], partial_sums[second + j] = sums


@inner
def _sum_block(plan, exact, x, dy, partial_sums, marks, shift, part, first, last):
    """Leave the part-th partial sums of channels first to last, in (2, parts, channels).

    If ``exact``, of channels that are marked only.
    """
    c, length, second = plan.channels, plan.run, plan.parts * plan.channels
    i, start = part // plan.pieces, part % plan.pieces * plan.piece
    n, distance = min(plan.piece, length - start), c * length
    sample, stop = i * plan.block_samples, min(plan.samples, (i + ONE) * plan.block_samples)
    sums, o = span(partial_sums, part * c, second + c), sample * distance + start
    if exact:
        _sum_exactly(plan, x, dy, o, n, stop - sample, first, last, sums, marks, shift)
        return
    for j in range(first, last):
        sums[j] = sums[second + j] = 0.0
    # Several samples at once, which lie far from each other. Of those that are left, if they are
    # long, several parts of each; then all that is left of them.
    lanes, runs = lanes_of(x), runs_at_once(dy)
    groups = (stop - sample) // runs if n >= lanes else ZERO
    left, step = stop - sample - groups * runs, ZERO
    if n >= LONG:
        step = (n - lanes) // (runs * lanes) * lanes
    for k in range(groups + (left if step != ZERO else ZERO)):
        size, gap = (n, distance) if k < groups else (step, step)
        for j in range(first, last):
            s1, s2 = _sum_interleaved(x, dy, o + j * length, size, gap, shift[j])
            sums[j] += s1
            sums[second + j] += s2
        o += runs * distance if k < groups else distance
    if left != ZERO:
        o = (stop - left) * distance + start + runs * step
        for j in range(first, last):
            rest = n - runs * step
            s1, s2 = sum_run(x, dy, o + j * length, rest, left, distance, shift[j])
            sums[j] += s1
            sums[second + j] += s2


@inlined
def reduce(context, plan, real, t, exact, x, dy, first, last):
    """Leave the partial sums of blocks ``first`` to ``last``, which follow the order of memory."""
    c, pieces = plan.channels, plan.pieces
    partial_sums = array_at(context.partial_sums, TWO * plan.parts * c, np.float64)
    marks = array_at(context.needs_float64, c, np.float64)
    shift, k = array_at(context.shift, c, real), first
    while k < last:
        part = k // (c * pieces) * pieces + k % pieces
        channel = k // pieces % c
        # Neighbouring blocks at once, sample by sample: each place of memory is read in order.
        blocks = min(last - k, c - channel) if pieces == ONE else ONE
        end = channel + blocks
        _sum_block(plan, exact, x, dy, partial_sums, marks, shift, part, channel, end)
        k += blocks


@apart
def _write_values(plan, o, stop, j, end, x, dy, out, coefficients):
    """Write values one by one: the first is of channel j, whose run ends at ``end``."""
    while o < stop:
        affine_one(out, x, dy, o, *coefficients, j)
        o += ONE
        if o == end:
            j = j + ONE if j + ONE < plan.channels else ZERO
            end += plan.run
    return j, end


@inner
def _write_part(plan, past_caches, o, stop, x, dy, out, coefficients):
    """Write the output from o to ``stop``.

    All vectors lie on cache lines, whatever the runs in them: 7x7 planes take 1.3 times a copy,
    where a vector that overlaps its neighbour at each end of a run takes 2.8 (AMD EPYC, 2026-11).
    """
    channels, length, lanes = plan.channels, plan.run, lanes_of(out)
    center, scale, offset, gain = coefficients
    row = o // length
    j, end = row % channels, (row + ONE) * length
    head = min(stop, o + to_line(out, o)) if plan.aligned != ZERO else o
    j, end = _write_values(plan, o, head, j, end, x, dy, out, coefficients)
    o, last = head, stop - (stop - head) % lanes
    while o < last:
        full = o + (min(end, last) - o) // lanes * lanes
        here = center[j], scale[j], offset[j], gain[j]
        if past_caches:
            while o < full:
                affine_nontemporal(out, x, dy, o, *here, ZERO)
                o += lanes
        while o < full:
            affine(out, x, dy, o, *here, ZERO)
            o += lanes
        if o >= last and o < end:
            break
        following = j + ONE if j + ONE < channels else ZERO
        if o < end:
            if past_caches:
                affine_pair_nontemporal(out, x, dy, o, *coefficients, j, following, end - o)
            else:
                affine_pair(out, x, dy, o, *coefficients, j, following, end - o)
            o += lanes
        j, end = following, end + length
    _write_values(plan, o, stop, j, end, x, dy, out, coefficients)


@inner
def _write_short(plan, in_place, o, stop, x, dy, out, coefficients):
    """Write the output from o to ``stop``, of runs shorter than a vector.

    A vector a run, which reaches into the runs behind, and is written over by theirs; one by one in
    place of what has yet to be read.
    """
    channels, length, lanes = plan.channels, plan.run, lanes_of(out)
    center, scale, offset, gain = coefficients
    row = o // length
    j, end = row % channels, (row + ONE) * length
    first = stop if in_place else min(stop, end) if o + length != end else o
    j, end = _write_values(plan, o, first, j, end, x, dy, out, coefficients)
    o = first
    while o + lanes <= stop:
        affine(out, x, dy, o, center[j], scale[j], offset[j], gain[j], ZERO)
        j = j + ONE if j + ONE < channels else ZERO
        o, end = end, end + length
    _write_values(plan, o, stop, j, end, x, dy, out, coefficients)


@inlined
def write(context, plan, real, x, dy, out, times, first, last):
    """Write the output from ``first`` to ``last``, in so many samples."""
    channels = plan.channels
    center = array_at(context.center, channels, real)
    scale = array_at(context.scale, channels, real)
    offset = array_at(context.offset, channels, real)
    gain = array_at(context.gain, channels, real)
    coefficients = center, scale, offset, gain
    past_caches = stores_past_caches(context, out, x, dy)
    short, in_place = plan.run < lanes_of(out), same_memory(out, x) or same_memory(out, dy)
    for k in range(times):
        o, stop = first + k * channels * plan.run, last + k * channels * plan.run
        if short:
            _write_short(plan, in_place, o, stop, x, dy, out, coefficients)
        else:
            _write_part(plan, past_caches, o, stop, x, dy, out, coefficients)
    if past_caches:
        fence()
