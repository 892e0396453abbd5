"""Standardise a stream of readings: scikit-learn's StandardScaler, fastbn's, and exact fractions.

    python examples/scaler.py [--parts 10000] [--rows 5] [--output scaler.json] [--quick]

A station sends a few readings at a time: a share of 0 to 1, a power of 1 to 1000 W, a clock whose
seconds are counted from 1970, and a counter of 1e8 and a little more. Both scalers learn part after
part by `partial_fit`; fastbn's learns once more on four machines, whose scalers are merged. What
their variances are off is told by fractions, which round nothing.
"""

import argparse
import json
import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from sklearn import preprocessing

from fastbn.adapters.sklearn import StandardScaler

COLUMNS = "share", "power, W", "clock, s", "counter"
MACHINES = 4
ALLOWED = 1e-13  # of the variance


def readings(parts, rows):
    """Parts of some rows each; a reading every half second, with a jitter."""
    rng = np.random.default_rng(0)
    n = parts * rows
    share = rng.random(n)
    power = 1 + 999 * rng.beta(2, 5, n)
    clock = 1.7e9 + np.arange(n) / 2 + rng.normal(0, 0.05, n)
    counter = 1e8 + rng.standard_normal(n)
    return np.split(np.stack([share, power, clock, counter], axis=1), parts)


def exact_variances(x):
    """Of each column, as fractions."""
    found = []
    for column in x.T:
        values = [Fraction(value) for value in column.tolist()]
        mean = sum(values) / len(values)
        found.append(sum((value - mean) ** 2 for value in values) / len(values))
    return found


def fitted(kind, parts):
    """A scaler that has seen part after part."""
    scaler = kind()
    for part in parts:
        scaler.partial_fit(part)
    return scaler


def merged(parts):
    """A scaler of four, each fitted on a quarter of the parts and sent as bytes."""
    quarters = (parts[k::MACHINES] for k in range(MACHINES))
    sent = [pickle.dumps(fitted(StandardScaler, quarter)) for quarter in quarters]
    return StandardScaler().merge(*map(pickle.loads, sent))


def results(parts):
    """{way: variances and their errors}, and the exact variances."""
    exact = exact_variances(np.concatenate(parts))
    scalers = {
        "scikit-learn": fitted(preprocessing.StandardScaler, parts),
        "fastbn": fitted(StandardScaler, parts),
        f"fastbn, {MACHINES} merged": merged(parts),
    }
    found = {}
    for name, scaler in scalers.items():
        variances = scaler.var_.tolist()
        pairs = zip(variances, exact, strict=True)
        errors = [float(abs(Fraction(var) / true - 1)) for var, true in pairs]
        found[name] = {"variances": variances, "errors": errors}
    return found, [float(var) for var in exact]


def table(found, exact, title):
    """A row per column of the readings."""
    made = Table(title=title, box=SIMPLE_HEAD)
    made.add_column("column")
    for heading in ("exact variance", *found):
        made.add_column(heading, justify="right")
    for j, column in enumerate(COLUMNS):
        errors = [f"{row['errors'][j]:.0e}" for row in found.values()]
        made.add_row(column, f"{exact[j]:.12g}", *errors)
    return made


def main():
    """Read the command line, fit, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", type=int, default=10_000, help="calls of partial_fit")
    parser.add_argument("--rows", type=int, default=5, help="readings of each part")
    parser.add_argument("--output", type=Path, default=Path("scaler.json"), help="the figures")
    parser.add_argument("--quick", action="store_true", help="a few parts, to see it work")
    options = parser.parse_args()
    parts = readings(min(options.parts, 500) if options.quick else options.parts, options.rows)
    found, exact = results(parts)
    options.output.write_text(json.dumps({"exact": exact, **found}, indent=1))
    title = f"Relative errors of variances after {len(parts):,} parts of {options.rows} readings"
    console = Console()
    console.print(table(found, exact, title))
    worst = {name: max(row["errors"]) for name, row in found.items()}
    console.print("Worst: " + ", ".join(f"{name} {error:.0e}" for name, error in worst.items()))
    if max(error for name, error in worst.items() if name != "scikit-learn") > ALLOWED:
        raise SystemExit(f"fastbn's variances should be within {ALLOWED:.0e} of the exact ones")


if __name__ == "__main__":
    main()
