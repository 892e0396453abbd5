"""fastbn beside PyTorch on odd shapes, drawn at random: `python -m benchmarks.grid`.

(N, C, L) with up to 37 samples, 100,003 channels and runs of 257, from 64 thousand to 4 million
values, float32. For each band of sizes, layout and pass: the geometric mean of PyTorch's time by
fastbn's, how many cells are below 0.95 and 0.8, and the worst.
"""

import argparse
import random
from itertools import product

import numpy as np

import fastbn

from .cases import LAYOUTS, Case, Data
from .libraries import prepared
from .measure import in_turn, quietly
from .report import machine

SAMPLES = (1, 2, 3, 5, 7, 8, 9, 16, 17, 23, 32, 33, 37)
RUNS = (*range(1, 10), 12, 15, 16, 17, 25, 31, 33, 49, 63, 64, 65, 100, 121, 127, 128, 196, 225)
MOST_CHANNELS, LONGEST = 100_003, (255, 256, 257)
BANDS = {"64k to 256k": (1 << 16, 1 << 18), "256k to 1M": (1 << 18, 1 << 20)}
BANDS["1M to 4M"] = (1 << 20, 1 << 22)


def shapes(count, seed):
    """{band: [shape, ...]}, so many of each."""
    draw, found = random.Random(seed), {}
    for band, (least, most) in BANDS.items():
        some = found[band] = []
        while len(some) < count:
            n, run = draw.choice(SAMPLES), draw.choice((*RUNS, *LONGEST))
            c = int(least * (most / least) ** draw.random() / (n * run))
            if n * run > 1 and 1 <= c <= MOST_CHANNELS and least <= n * c * run < most:
                some.append((n, c, run))
    return found


def ratios(some, layout, operation, seconds):
    """{shape: PyTorch's least time by fastbn's}, of the cells that nothing disturbed."""
    found = {}
    for shape in some:
        data = Data(Case("grid", (*shape[:2], 1, shape[2])), layout)
        calls = {name: [prepared(name, operation, data)] for name in ("fastbn", "PyTorch")}
        times = quietly(lambda calls=calls: in_turn(calls, seconds))
        if times is not None:
            found[shape] = times["PyTorch"].least / times["fastbn"].least
    return found


def summary(found):
    """A line about some cells."""
    values, worst = np.array(list(found.values())), min(found, key=found.__getitem__)
    below = ", ".join(f"{np.sum(values < bound)} below {bound}" for bound in (0.95, 0.8))
    mean, shape = np.exp(np.log(values).mean()), "x".join(map(str, worst))
    return f"{mean:5.2f}, of {len(values)} {below}, worst {values.min():.2f} {shape}"


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grid", description=__doc__)
    parser.add_argument("--cells", type=int, default=30, help="of each band: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=0.1, help="a cell: %(default)s")
    parser.add_argument("--threads", type=int, help="default: as many as fastbn takes")
    options = parser.parse_args()
    if options.threads:
        fastbn.set_num_threads(options.threads)
    drawn = shapes(options.cells, options.seed)
    for band, layout, operation in product(BANDS, LAYOUTS, ("forward", "backward")):
        found = ratios(drawn[band], layout, operation, options.seconds)
        if found:
            print(f"{band:12} {layout:15} {operation:9} {summary(found)}", flush=True)
    print(machine())


if __name__ == "__main__":
    main()
