"""Times and allocations of calls, measured so that they can be compared."""

import os
import tracemalloc
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
    1,080 us with those 562 faults and 227 us without them, and which of the two it was depended on
    what the process had done before. Arrays of tens of megabytes still fault in some calls.
    """
    np.empty(31 << 20, np.uint8)  # freed at once; untouched, so it costs no memory


class Bystanders:
    """What other processes took of the processors since this was made.

    It matters more than it seems. A library whose threads spin while they wait for each other
    loses whole time slices, tens of milliseconds, to a busy neighbour, and one that runs a small
    call on one thread loses nothing: no minimum repairs that, and the ratio of the two is wrong
    by a factor of thousands.
    """

    def __init__(self):
        self.start = self._now()

    def share(self):
        """Between 0 and 1; NaN where the system does not tell."""
        wall, own, all_ = (b - a for a, b in zip(self.start, self._now(), strict=True))
        return max((all_ - own) / (wall * os.cpu_count()), 0.0)

    @staticmethod
    def _now():
        """Seconds: of the clock, of this process, and of all processes."""
        try:
            ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        except OSError:
            return perf_counter(), process_time(), float("nan")
        user, nice, system, _, _, irq, softirq = map(int, ticks[:7])
        busy = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
        return perf_counter(), process_time(), busy


class Times(NamedTuple):
    """Of many calls in one process, seconds."""

    least: float
    median: float


def interleaved(calls, seconds=1.0, least_rounds=5):
    """The `Times` of each call, {name: Times}, from rounds in which each has a turn.

    Whatever slows the machine for a while slows all of them. There are at least `least_rounds`
    rounds, and more while they have not taken `seconds` yet.
    """
    settle_allocator()
    once = {name: min(timeit(call, number=1) for _ in range(3)) for name, call in calls.items()}
    loops = {name: max(1, round(SAMPLE / time)) for name, time in once.items()}
    samples = {name: [] for name in calls}
    start, rounds = perf_counter(), 0
    while rounds < least_rounds or perf_counter() - start < seconds:
        for name, call in calls.items():
            samples[name] += _turn(call, loops[name])
        rounds += 1
    return {name: Times(min(times), median(times)) for name, times in samples.items()}


def quietly(measure, attempts=5):
    """What `measure()` returns while the machine is quiet, or None if it never is."""
    for _ in range(attempts):
        bystanders = Bystanders()
        result = measure()
        if not bystanders.share() > QUIET:  # NaN, where nothing is known, passes
            return result
    return None


def _turn(call, loops):
    """Seconds of a call, sample by sample, while it has its turn, which has at least one."""
    samples, end = [], perf_counter() + TURN
    while not samples or perf_counter() < end:
        samples.append(timeit(call, number=loops) / loops)
    return samples


def peak_allocation(call):
    """The most bytes that NumPy and Python held during a call, beyond those held before it.

    Scratch memory that compiled code takes for itself does not show here, but in the peak memory
    of the process.
    """
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
