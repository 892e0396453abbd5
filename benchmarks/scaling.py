"""fastbn's StandardScaler and scikit-learn's: speed, and digits that are left.

    python -m benchmarks.scaling [--rows 1000000] [--seconds S] [--threads K] [--markdown]

How many times as long scikit-learn's takes, of minima of calls that take turns in one process: to
fit, to fit and transform, to transform alone, back, and to fit in 100 parts, for float64 and
float32, as arrays lie in memory (C) and as data frames do (F), without NaN, with NaN in one column
and with NaN in all. Then relative errors of the variance after 10,000 parts, and after one call,
against exact fractions.
"""

import argparse
from contextlib import suppress
from fractions import Fraction
from importlib.metadata import version
from itertools import product

import numpy as np

import fastbn

from . import report
from .measure import in_turn, quietly

with suppress(ImportError):  # asv imports every file here
    from sklearn import preprocessing

    from fastbn.adapters.sklearn import StandardScaler

    KINDS = {"fastbn": StandardScaler, "scikit-learn": preprocessing.StandardScaler}
COLUMNS, PARTS = 50, 100
NAN = {"": [], "NaN in 1 column": [7], "NaN in all columns": slice(None)}
OFFSETS = (0, 1e4, 1e8)
TASKS = ("fit", "fit and transform", "transform", "inverse_transform", f"{PARTS} partial_fits")


def data(rows, dtype, order, nan):
    """Normal numbers; of columns that have NaN, every thousandth value is."""
    x = np.random.default_rng(0).standard_normal((rows, COLUMNS)).astype(dtype)
    x[::1000, NAN[nan]] = np.nan
    return np.asarray(x, order=order)


def calls(kind, x):
    """{task: call} of a library's scaler."""
    scaler, parts = kind().fit(x), np.array_split(x, PARTS)

    def in_parts():
        fitted = kind()
        for part in parts:
            fitted.partial_fit(part)

    return dict(
        zip(
            TASKS,
            (
                lambda: kind().fit(x),
                lambda: kind().fit_transform(x),
                lambda: scaler.transform(x),
                lambda: scaler.inverse_transform(x),
                in_parts,
            ),
            strict=True,
        )
    )


def ratios(rows, dtype, order, nan, seconds):
    """{task: scikit-learn's time to fastbn's}; nothing where the machine was too noisy."""
    x = data(rows, dtype, order, nan)
    sides = {name: calls(kind, x) for name, kind in KINDS.items()}

    def task(name):
        return in_turn({side: [of[name]] for side, of in sides.items()}, seconds)

    found = {name: quietly(lambda name=name: task(name)) for name in TASKS}
    return {
        name: times["scikit-learn"].least / times["fastbn"].least if times else np.nan
        for name, times in found.items()
    }


def speed(rows, seconds, dtypes=("float64", "float32"), orders="CF", nans=tuple(NAN)):
    """The table of ratios, a row for each kind of data."""
    import pandas as pd

    found = {}
    for dtype, order, nan in product(dtypes, orders, nans):
        heading = ", ".join(filter(None, [dtype, order, nan]))
        found[heading] = ratios(rows, dtype, order, nan, seconds)
    cells = pd.DataFrame.from_dict(found, orient="index")
    return f"scikit-learn's time to fastbn's, ({rows:,}, {COLUMNS})", cells.map(report.multiple)


def errors(offset, parts=10_000, size=3):
    """Of a variance by library, in parts and at once, relative to the exact one."""
    x = offset + np.random.default_rng(0).standard_normal((parts * size, 1))
    values = [Fraction(value) for value in x.ravel().tolist()]
    mean = sum(values) / len(values)
    exact = sum((value - mean) ** 2 for value in values) / len(values)
    found = {}
    for name, kind in KINDS.items():
        scaler = kind()
        for part in np.split(x, parts):
            scaler.partial_fit(part)
        for way, fitted in ((f"{parts:,} parts", scaler), ("at once", kind().fit(x))):
            found[f"{name}, {way}"] = float(abs(Fraction(float(fitted.var_[0])) / exact - 1))
    return found


def accuracy(offsets=OFFSETS, parts=10_000):
    """The table of errors, a row for each mean."""
    import pandas as pd

    found = {f"{offset:,.0f}": errors(offset, parts) for offset in offsets}
    cells = pd.DataFrame.from_dict(found, orient="index").map("{:.0e}".format)
    return "relative error of the variance, float64, by mean", cells


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the data: %(default)s")
    parser.add_argument("--seconds", type=float, default=1.0, help="a cell: %(default)s")
    parser.add_argument("--threads", type=int, help="fastbn's; scikit-learn's has one")
    parser.add_argument("--markdown", action="store_true", help="tables of docs/distributed.md")
    options = parser.parse_args()
    if options.threads:
        fastbn.set_num_threads(options.threads)
    show = report.markdown if options.markdown else report.text
    for title, cells in (speed(options.rows, options.seconds), accuracy()):
        print(show(title, cells.rename_axis("data")) + "\n")
    print(f"{report.machine(['fastbn'])}, scikit-learn {version('scikit-learn')}")


if __name__ == "__main__":
    main()
