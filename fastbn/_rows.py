"""Kernels where a channel is a contiguous run: (N, C, L) with L of 16 and more."""

import numpy as np

from . import _plan
from ._intrinsics import fence
from ._jit import block, reduction
from ._runs import ONE, ZERO, same_memory, write_run

# Values in a sum: where vectors have two lanes, runs of 2500 cost 69 ulp of float64 variance.
LONGEST = np.uintp(1024)


@reduction
def _sums(x, dy, o, n, shift):
    """Sums of d and d * d over a run, d = x - shift; with ``dy``, of dy and dy * d.

    In float64 for every dtype: nothing overflows, nothing cancels, and as 32 values a step it
    reads at 80 % of the speed of a bare read pass (float32 sums: no faster beyond the caches).
    """
    s1, s2 = 0.0, 0.0
    for i in range(n):
        d = np.float64(x[o + i]) - shift
        u = d if dy is None else np.float64(dy[o + i])
        s1 += u
        s2 += u * d
    return s1, s2


@block
def reduce(t, threads, plan, x, dy, work):
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
                end = o + min(piece, length - start)
                while o < end:
                    s1, s2 = _sums(x, dy, o, min(LONGEST, end - o), work[plan[_plan.SHIFT] + j])
                    work[part + j] += s1
                    work[second + part + j] += s2
                    o += LONGEST


@block
def write(t, threads, plan, x, dy, out, coefficients):
    """Write the t-th share of the output, in memory order; threads share values, not rows."""
    c, length = plan[_plan.C], plan[_plan.L]
    total = plan[_plan.N] * c * length
    m, b, shift, a = coefficients[0], coefficients[1], coefficients[2], coefficients[3]
    o, stop = total * t // threads, total * (t + ONE) // threads
    inplace = same_memory(out, x) or same_memory(out, dy)
    # Streaming stores lose on runs of less than a few kilobytes, whose ends are partial lines.
    long_runs = length * np.uintp(out.itemsize) >= np.uintp(2048)
    stream = plan[_plan.STREAM] != ZERO and long_runs and not inplace
    j, end = o // length % c, (o // length + ONE) * length
    while o < stop:
        n = min(stop, end) - o
        write_run(out, x, dy, o, n, m[j], b[j], shift[j], a[j], ZERO, stream, inplace)
        o, end, j = o + n, end + length, j + ONE
        if j == c:
            j = ZERO
    if stream:
        fence()
