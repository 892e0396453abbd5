"""Kernels where a channel is a contiguous run: (N, C, L) with L of 16 and more."""

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
)
from ._jit import block
from ._runs import ONE, THREE, TWO, ZERO, lanes_of, streams, to_line


@block
def reduce(t, threads, plan, exact, x, dy, work):
    """Leave the partial sums of the t-th share of the blocks in ``work``, as (2, PARTS, C)."""
    n, c, length = plan[_plan.N], plan[_plan.C], plan[_plan.L]
    samples, channels = plan[_plan.SAMPLES], plan[_plan.CHANNELS]
    piece, second = plan[_plan.PIECE], plan[_plan.PARTS] * c
    pieces = (length + piece - ONE) // piece
    groups = (c + channels - ONE) // channels
    blocks = (n + samples - ONE) // samples * groups * pieces
    for k in range(blocks * t // threads, blocks * (t + ONE) // threads):
        i = k // (groups * pieces)
        start = k % pieces * piece
        part = (i * pieces + k % pieces) * c
        first = k // pieces % groups * channels
        last = min(c, first + channels)
        for j in range(first, last):
            work[part + j] = 0.0
            work[second + part + j] = 0.0
        for sample in range(i * samples, min(n, (i + ONE) * samples)):
            for j in range(first, last):
                o = (sample * c + j) * length + start
                m = min(piece, length - start)
                shift = x.dtype.type(work[plan[_plan.SHIFT] + j])
                if exact:
                    s1, s2 = sum_run_exact(x, dy, o, m, shift)
                else:
                    s1, s2 = sum_run(x, dy, o, m, shift)
                work[part + j] += s1
                work[second + part + j] += s2


@block
def _write_values(o, stop, length, channels, x, dy, out, m, b, c, a):
    """Write values one by one, as far as the next whole vector or the end."""
    while o < stop:
        affine_one(out, x, dy, o, m, b, c, a, o // length % channels)
        o += ONE
    return o


@block
def write(t, threads, plan, x, dy, out, values):
    """Write the t-th share of the output, in memory order: threads share values, not rows.

    All vectors lie on cache lines, whatever the runs in them: 7x7 planes take 1.3 times a copy,
    where a vector that overlaps its neighbour at each end of a run takes 2.8.
    """
    channels, length, lanes = plan[_plan.C], plan[_plan.L], lanes_of(out)
    total = plan[_plan.N] * channels * length
    room = plan[_plan.ROOM]
    m, b = values[:channels], values[room : room + channels]
    c, a = (
        values[TWO * room : TWO * room + channels],
        values[THREE * room : THREE * room + channels],
    )
    o, stop = total * t // threads, total * (t + ONE) // threads
    stream = streams(plan, out, x, dy)
    head = min(stop, o + to_line(out, o)) if plan[_plan.ALIGN] != ZERO else o
    o = _write_values(o, head, length, channels, x, dy, out, m, b, c, a)
    last = stop - (stop - o) % lanes
    j, end = o // length % channels, (o // length + ONE) * length
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
        following = j + ONE if j + ONE < channels else ZERO
        if o < min(end, last):
            if stream:
                affine_pair_stream(out, x, dy, o, m, b, c, a, j, following, end - o)
            else:
                affine_pair(out, x, dy, o, m, b, c, a, j, following, end - o)
            o += lanes
        j, end = following, end + length
    _write_values(o, stop, length, channels, x, dy, out, m, b, c, a)
    if stream:
        fence()
