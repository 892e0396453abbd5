"""Rounding errors of statistics that are merged of many parts, far from 0.

    python -m benchmarks.merging [--markdown]

Normal float64 values of deviation 1 about some means, cut into equal parts: the mean's error in
ulps of max(|mean|, deviation), and that of the variance relative to it, against exact fractions of
all values. Beside fastbn, the formula of Chan, Golub & LeVeque as it is usually computed, with a
mean and a sum of squares in float64, part after part; and scikit-learn, where it is installed.

With --tree, the statistics of 1,000 workers, whose shares are 1 to 3,000 values and some of them
empty, as `fastbn.adapters.dask` and `.mpi` merge them, and in any order; then what merging 512
channels takes.
"""

import argparse
from fractions import Fraction
from functools import reduce
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from operator import add

import numpy as np

import fastbn

from . import report
from .measure import in_turn

OFFSETS = (0, 1e4, 1e8)
CUTS = ((10, 1200), (100, 120), (10_000, 1))  # parts, and values of each
WORKERS, FAN = 1000, 16  # of the tree: at most so many results are merged by one task


def at_once(parts):
    """`merge_stats`."""
    merged = fastbn.merge_stats([fastbn.batch_stats(part) for part in parts])
    return merged.mean[0], merged.var()[0]


def one_by_one(parts):
    """`+`, from the first to the last."""
    merged = reduce(add, [fastbn.batch_stats(part) for part in parts])
    return merged.mean[0], merged.var()[0]


def usual(parts):
    """Chan's formula in float64."""
    count = mean = m2 = 0.0
    for part in filter(len, parts):
        n, delta = len(part), part.mean() - mean
        mean += delta * n / (count + n)
        m2 += part.var() * n + delta * delta * count * n / (count + n)
        count += n
    return mean, m2 / count


def scikit_learn(parts):
    """`StandardScaler.partial_fit`."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    for part in parts:
        scaler.partial_fit(part)
    return scaler.mean_[0], scaler.var_[0]


WAYS = {"merge_stats": at_once, "+": one_by_one, "Chan's formula": usual}
if find_spec("sklearn"):
    WAYS["scikit-learn"] = scikit_learn


def shares(workers=WORKERS, seed=0):
    """How many values each worker has: from 1 to 3,000, evenly on a scale of logarithms, or 0."""
    rng = np.random.default_rng(seed)
    counts = np.exp(rng.uniform(0, np.log(3000), workers)).astype(int)
    counts[rng.random(workers) < 0.02] = 0
    return counts


def by_tree(parts):
    """Groups of up to 16, and groups of these, as `fastbn.adapters.dask` merges chunks."""
    level = [fastbn.batch_stats(part) for part in parts]
    while len(level) > 1:
        level = [fastbn.merge_stats(level[i : i + FAN]) for i in range(0, len(level), FAN)]
    return level[0].mean[0], level[0].var()[0]


def by_messages(parts):
    """All at once, of buffers, as `fastbn.adapters.mpi` merges ranks."""
    buffers = np.stack([fastbn.batch_stats(part).to_array() for part in parts])
    merged = fastbn.merge_stats(map(fastbn.Stats.from_array, buffers))
    return merged.mean[0], merged.var()[0]


def any_order(parts):
    """One by one as they happen to arrive."""
    order = np.random.default_rng(1).permutation(len(parts))
    return one_by_one([parts[i] for i in order])


TREES = {
    "tree of 16": by_tree,
    "messages": by_messages,
    "one by one, shuffled": any_order,
    "Chan's formula": usual,
}


def errors(way, x, parts):
    """Of the mean in ulps, and of the variance relative to it; parts: a number, or where to cut."""
    values = [Fraction(value) for value in x.ravel().tolist()]
    exact = sum(values) / len(values)
    variance = sum(value * value for value in values) / len(values) - exact * exact
    mean, var = way(np.split(x, parts))
    ulp = Fraction(np.spacing(max(abs(float(exact)), float(variance) ** 0.5)))
    return float(abs(Fraction(mean) - exact) / ulp), float(abs(Fraction(var) / variance - 1))


def table(offsets=OFFSETS, cuts=CUTS, ways=WAYS):
    """A row for each mean and number of parts: errors of means by way, then of variances."""
    import pandas as pd

    rows = {}
    for offset, (parts, size) in product(offsets, cuts):
        x = offset + np.random.default_rng(0).standard_normal((parts * size, 1))
        rows[f"{offset:,.0f}, {parts:,} of {size:,}"] = cells_of(ways, x, parts)
    headings = [f"{what}: {name}" for what in ("mean", "var") for name in ways]
    cells = pd.DataFrame.from_dict(rows, orient="index", columns=headings)
    title = "errors: of the mean in ulps of float64, of the variance relative to it"
    return title, cells.rename_axis("mean, parts")


def tree_table(offsets=OFFSETS, workers=WORKERS):
    """A row for each mean, of workers that have unequal shares."""
    import pandas as pd

    counts = shares(workers)
    cuts, rows = np.cumsum(counts)[:-1], {}
    for offset in offsets:
        x = offset + np.random.default_rng(2).standard_normal((counts.sum(), 1))
        rows[f"{offset:,.0f}"] = cells_of(TREES, x, cuts)
    headings = [f"{what}: {name}" for what in ("mean", "var") for name in TREES]
    cells = pd.DataFrame.from_dict(rows, orient="index", columns=headings)
    title = (
        f"{workers:,} workers, {counts.sum():,} values, {np.sum(counts == 0)} workers without; "
        "errors: of the mean in ulps of float64, of the variance relative to it"
    )
    return title, cells.rename_axis("mean")


def merge_times(channels=512, seconds=1.0):
    """{parts: seconds} of merging the messages of some parts, as buffers, into statistics."""
    rng = np.random.default_rng(0)
    stats = [fastbn.batch_stats(rng.standard_normal((8, channels))) for _ in range(WORKERS)]
    buffers = [part.to_array() for part in stats]

    def merged(parts):
        return fastbn.merge_stats([fastbn.Stats.from_array(a) for a in buffers[:parts]])

    calls = {parts: [lambda parts=parts: merged(parts)] for parts in (2, FAN, WORKERS)}
    return {parts: times.least for parts, times in in_turn(calls, seconds).items()}


def cells_of(ways, x, parts):
    """Errors of means by way, then of variances, as text."""
    ulps, relative = zip(*(errors(way, x, parts) for way in ways.values()), strict=True)
    return [f"{error:.1f}" for error in ulps] + [f"{error:.0e}" for error in relative]


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.merging", description=__doc__.split("\n")[0])
    parser.add_argument("--markdown", action="store_true", help="the tables of docs/")
    parser.add_argument("--tree", action="store_true", help="1,000 workers of unequal shares")
    options = parser.parse_args()
    show = report.markdown if options.markdown else report.text
    print(show(*(tree_table() if options.tree else table())))
    if options.tree:
        times = [f"{1e3 * s:.2f} ms of {n:,}" for n, s in merge_times().items()]
        print(f"\nmerging buffers of 512 channels: {', '.join(times)}")
    learn = f", scikit-learn {version('scikit-learn')}" if "scikit-learn" in WAYS else ""
    print(f"\n{report.machine(['fastbn'])}{learn}")


if __name__ == "__main__":
    main()
