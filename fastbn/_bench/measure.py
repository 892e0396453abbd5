"""Times of calls, measured so that they can be compared."""

import os
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from timeit import timeit
from typing import NamedTuple

import numpy as np

TURN = 0.02  # seconds; enough for a library's idle threads to go to sleep in the next one's turn
SAMPLE = 2e-4  # seconds; calls shorter than this are timed several at once

QUIET = 0.05  # of the processors; the share of other processes that leaves times comparable


def settle_allocator():
    """Free a large block, so that the C library keeps the memory of arrays for later calls.

    Before a process has done so, glibc gives every array of 128 kB and more back to the system,
    and the next one costs a page fault per 4 kB. Plain NumPy's forward pass on (1500, 100) took
    840 us before and 231 us after (AMD EPYC, November 2026), and which of the two it is depends on
    what the process has done. Arrays of tens of megabytes still fault in some calls.
    """
    np.empty(31 << 20, np.uint8)  # freed at once; untouched, so it costs no memory


def busy():
    """Seconds: of the clock, of this process, and of all processes; NaN where they are unknown."""
    try:
        ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return perf_counter(), process_time(), float("nan")
    user, nice, system, _, _, irq, softirq = map(int, ticks[:7])
    all_ = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    return perf_counter(), process_time(), all_


def quietly(measure, attempts=5):
    """What `measure()` returns while other processes are quiet, or None if they never are.

    A library whose threads spin while they wait for each other loses whole time slices, tens of
    milliseconds, to a busy neighbour; a small call on one thread loses nothing. No minimum repairs
    that, and the ratio of the two can be wrong by a factor of thousands.
    """
    for _ in range(attempts):
        before, result, after = busy(), measure(), busy()
        wall, own, all_ = np.subtract(after, before)
        if not all_ - own > QUIET * wall * os.cpu_count():  # NaN, where nothing is known, passes
            return result
    return None


class Times(NamedTuple):
    """Of many calls in one process, seconds."""

    least: float
    median: float


def in_turn(calls, seconds=1.0, least_rounds=5):
    """{name: Times} of {name: [call, ...]}, from rounds in which each call has a turn.

    Of several calls under one name, each statistic is that of the best. Whatever slows the machine
    for a while slows all of them. There are at least `least_rounds` rounds, and more while they
    have not taken `seconds` yet.
    """
    settle_allocator()
    turns = [(name, call) for name, some in calls.items() for call in some]
    once = [min(timeit(call, number=1) for _ in range(3)) for _, call in turns]
    loops = [max(1, round(SAMPLE / time)) for time in once]
    samples = [[] for _ in turns]
    start, rounds = perf_counter(), 0
    while rounds < least_rounds or perf_counter() - start < seconds:
        for k, (_, call) in enumerate(turns):
            samples[k] += _turn(call, loops[k])
        rounds += 1
    found = {}
    for (name, _), times in zip(turns, samples, strict=True):
        new = Times(min(times), median(times))
        found[name] = Times(*map(min, new, found.get(name, new)))
    return found


def _turn(call, loops):
    """Seconds of a call, sample by sample, while it has its turn, which has at least one."""
    samples, end = [], perf_counter() + TURN
    while not samples or perf_counter() < end:
        samples.append(timeit(call, number=loops) / loops)
    return samples
