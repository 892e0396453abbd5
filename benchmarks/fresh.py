"""What a new output costs beside one that is given: times and page faults of a call.

    python -m benchmarks.fresh [--state new|freed|trim] [--megabytes 0.25 1 4] [--seconds 0.5]

The usual loop, in which an output dies once its successor is there, and the same calls with `out=`,
by turns. Between them NumPy, and PyTorch if it is there, make and drop arrays of their own. The
usual loop writes to two arrays in turn, and so do the calls behind "of two": where a cache holds x
and one output but not two, that alone takes 1.2 to 1.4 times as long (6 and 8 MB, of 32).

Each state of the heap has a process: a new one; one that has freed large arrays, from which on the
C library keeps blocks up to 32 MB; and one in which it never does (MALLOC_TRIM_THRESHOLD_).
"""

import argparse
import os
import subprocess
import sys
from contextlib import suppress
from functools import partial
from itertools import cycle
from statistics import median
from time import perf_counter

import numpy as np

import fastbn

try:
    import resource
except ImportError:  # Windows
    resource = None

STATES = ("new", "freed", "trim")
MEGABYTES = (0.25, 0.5, 1, 2, 3, 4, 8, 16, 32, 64, 256, 1024)
LAYOUTS = {  # of 64 channels: the shape of so many samples, and the axis of the channels
    "first": lambda n: ((n, 64, 8, 8), 1),
    "last": lambda n: ((n, 8, 8, 64), -1),
    "rows": lambda n: ((64 * n, 64), 1),
}
SAMPLE = 64 * 64 * 4  # bytes


def faults():
    """Page faults of this process so far that took no disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt if resource else 0


def others():
    """What other libraries do between the calls: arrays of several sizes come and go."""
    made = [np.ones(size, np.float32) for size in (1000, 50_000, 300_000)]
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        made += [torch.ones(size) for size in (1000, 50_000, 300_000)]
    return made


class Loop:
    """One operation on one array, whose result is kept until the next one is there."""

    def __init__(self, call):
        self._call, self._result = call, call()
        self.times, self.faults = [], 0

    def run(self):
        before, start = faults(), perf_counter()
        self._result = self._call()
        self.times.append(perf_counter() - start)
        self.faults += faults() - before


def compared(operation, layout, size, seconds):
    """(ratio of minima, of medians, of two outputs' medians, microseconds with `out=`, faults)."""
    shape, axis = LAYOUTS[layout](max(1, size // SAMPLE))
    x = np.resize(np.random.default_rng(0).standard_normal(99_991, np.float32), shape)
    dy, saved = x[::-1].copy(), fastbn.forward(x, channel_axis=axis)[1]
    out = cycle([np.ones_like(x)])
    two = cycle([np.ones_like(x), np.ones_like(x)])

    def call(outs):
        if operation == "forward":
            return fastbn.forward(x, channel_axis=axis, out=outs and next(outs))
        return fastbn.backward(dy, saved, out=outs and next(outs))

    loops = [Loop(partial(call, outs)) for outs in (None, out, two)]
    end, turns = perf_counter() + seconds, 0
    while perf_counter() < end or turns < 5:
        for loop in loops:
            others()
            loop.run()
            loop.run()  # the first finds what others left in the caches
            if turns == 0:
                loop.times.clear()
                loop.faults = 0
        turns += 1
    new, one, both = (loop.times[1::2] for loop in loops)
    a, b, c = median(new), median(one), median(both)
    return min(new) / min(one), a / b, a / c, b * 1e6, loops[0].faults / len(loops[0].times)


def table(state, megabytes, seconds):
    """Print what calls cost in this process."""
    if state == "freed":
        for size in (1 << 20, 16 << 20, 31 << 20):
            np.ones(size, np.uint8)
    print(f"{state:6}      MB layout  pass         min  median of two    out= us faults")
    for size in megabytes:
        for layout in LAYOUTS:
            for operation in ("forward", "backward"):
                found = compared(operation, layout, int(size * 2**20), seconds)
                row = "{:6.3f} {:7.3f} {:6.3f} {:10.1f} {:6.1f}".format(*found)
                print(f"{state:6} {size:7g} {layout:7} {operation:9} {row}", flush=True)
    kept, limit = (fastbn.config_info()[k] >> 20 for k in ("kept_memory", "kept_memory_limit"))
    print(f"{state}: {kept} MB are kept, of at most {limit}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--state", choices=STATES, help="one state, in this process; else all")
    parser.add_argument("--megabytes", type=float, nargs="+", default=MEGABYTES)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each row")
    options = parser.parse_args()
    if options.state:
        with suppress(ImportError):
            import torch

            torch.set_num_threads(1)  # its threads would wait for work where ours are to run
        table(options.state, options.megabytes, options.seconds)
        return
    for state in STATES:
        settings = {"MALLOC_TRIM_THRESHOLD_": "131072"} if state == "trim" else {}
        subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.fresh", "--state", state),
                *("--seconds", str(options.seconds)),
                *("--megabytes", *map(str, options.megabytes)),
            ],
            env=os.environ | settings,
            check=True,
        )


if __name__ == "__main__":
    main()
