"""Rounding errors of statistics that are merged of many parts, far from 0.

    python -m benchmarks.merging [--markdown]

Normal float64 values of deviation 1 about some means, cut into equal parts: the mean's error in
ulps of max(|mean|, deviation), and that of the variance relative to it, against exact fractions of
all values. Beside fastbn, the formula of Chan, Golub & LeVeque as it is usually computed, with a
mean and a sum of squares in float64, part after part; and scikit-learn, where it is installed.
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

OFFSETS = (0, 1e4, 1e8)
CUTS = ((10, 1200), (100, 120), (10_000, 1))  # parts, and values of each


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
    for part in parts:
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


def errors(way, x, parts):
    """Of the mean in ulps, and of the variance relative to it."""
    values = [Fraction(value) for value in x.ravel().tolist()]
    exact = sum(values) / len(values)
    variance = sum(value * value for value in values) / len(values) - exact * exact
    mean, var = way(np.split(x, parts))
    ulp = Fraction(np.spacing(max(abs(float(exact)), float(variance) ** 0.5)))
    return float(abs(Fraction(mean) - exact) / ulp), float(abs(Fraction(var) / variance - 1))


def table(offsets=OFFSETS, cuts=CUTS):
    """A row for each mean and number of parts: errors of means by way, then of variances."""
    import pandas as pd

    rows = {}
    for offset, (parts, size) in product(offsets, cuts):
        x = offset + np.random.default_rng(0).standard_normal((parts * size, 1))
        found = zip(*(errors(way, x, parts) for way in WAYS.values()), strict=True)
        ulps, relative = found
        cells = [f"{error:.1f}" for error in ulps] + [f"{error:.0e}" for error in relative]
        rows[f"{offset:,.0f}, {parts:,} of {size:,}"] = cells
    headings = [f"{what}: {name}" for what in ("mean", "var") for name in WAYS]
    cells = pd.DataFrame.from_dict(rows, orient="index", columns=headings)
    title = "errors: of the mean in ulps of float64, of the variance relative to it"
    return title, cells.rename_axis("mean, parts")


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.merging", description=__doc__.split("\n")[0])
    parser.add_argument("--markdown", action="store_true", help="the table of docs/accuracy.md")
    markdown = parser.parse_args().markdown
    print((report.markdown if markdown else report.text)(*table()))
    learn = f", scikit-learn {version('scikit-learn')}" if "scikit-learn" in WAYS else ""
    print(f"\n{report.machine(['fastbn'])}{learn}")


if __name__ == "__main__":
    main()
