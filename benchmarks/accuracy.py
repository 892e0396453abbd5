"""Rounding errors of fastbn and PyTorch where the mean is far larger than the deviation.

    python -m benchmarks.accuracy [--markdown]

float32 data of deviation 1 about means of 0 to a million. Errors are in ulps: of max(|y|, 1) for
the outputs y, and of the exact value for the unbiased variance that goes into `running_var`.
A result that is rounded once from the exact value is within half an ulp.
"""

import argparse
from itertools import product

import numpy as np

import fastbn

from . import report
from .cases import Case, Data
from .libraries import EPS, installed

CASE = Case("ladder", (16, 16, 32, 32))
OFFSETS = (0, 1, 1e2, 1e4, 1e6)


def exact(x):
    """The outputs, and the unbiased variances by channel, in float64.

    Any float32 is an integer times 2^-149, and Python's integers add and multiply without
    rounding. The only roundings are those of the last divisions and the square root, to float64,
    together below 2^-27 of a float32 ulp.
    """
    n = x.size // x.shape[1]
    channels = np.moveaxis(x, 1, 0)
    y, var = np.empty(channels.shape), np.empty(len(channels))
    for c, values in enumerate(channels):
        k = [int(v) for v in values.ravel().astype(np.float64) * 2.0**149]
        total = sum(k)
        m2 = n * sum(v * v for v in k) - total * total  # n^2 4^149 times the population variance
        centred = np.array([(n * v - total) / (n << 149) for v in k]).reshape(values.shape)
        y[c] = centred / np.sqrt(m2 / (n * n << 298) + EPS)
        var[c] = m2 / (n * (n - 1) << 298)
    return np.moveaxis(y, 0, 1), var


def outputs_and_variances(library, x):
    """What a library makes of x in training, with a momentum of 1 on running arrays of its own."""
    running = np.zeros((2, x.shape[1]), np.float32)
    if library == "fastbn":
        return fastbn.batch_norm(x, *running, training=True, momentum=1.0, eps=EPS), running[1]
    import torch

    tensors = map(torch.from_numpy, (x, *running))
    y = torch.nn.functional.batch_norm(*tensors, training=True, momentum=1.0, eps=EPS)
    return y.numpy(), running[1]


def largest_ulps(got, want, least):
    """The largest error in float32 ulps of max(|want|, least)."""
    ulp = np.spacing(np.maximum(np.abs(want), least).astype(np.float32)).astype(np.float64)
    return np.max(np.abs(got - want) / ulp)


def problem(offset, layout):
    """Data about a mean, and what `exact` makes of them."""
    x = Data(CASE, layout).dy + np.float32(offset)  # dy is standard normal
    return x, *exact(x)


def errors(library, x, y, var):
    """The largest errors of a library's outputs and variances, in ulps."""
    outputs, variances = outputs_and_variances(library, x)
    return largest_ulps(outputs, y, 1), largest_ulps(variances, var, 0)


def table(libraries):
    """A row per mean and layout: errors of the outputs by library, then of the variances."""
    import pandas as pd

    rows = {}
    for offset, layout in product(OFFSETS, CASE.layouts):
        data = problem(offset, layout)
        found = zip(*(errors(library, *data) for library in libraries), strict=True)
        cells = [report.significant(error, 2) for of_kind in found for error in of_kind]
        rows[f"{offset:,.0f}, {layout.split('_')[1]}"] = cells
    headings = [f"{what}: {name}" for what in ("y", "var") for name in libraries]
    cells = pd.DataFrame.from_dict(rows, orient="index", columns=headings)
    return "largest error, ulps of float32", cells.rename_axis("mean, channels")


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.accuracy", description=__doc__.split("\n")[0])
    parser.add_argument("--markdown", action="store_true", help="the table of docs/accuracy.md")
    markdown = parser.parse_args().markdown
    libraries = [name for name in ("fastbn", "PyTorch") if name in installed()]
    print((report.markdown if markdown else report.text)(*table(libraries)))
    print(f"\n{CASE.name}, {report.machine(libraries)}")


if __name__ == "__main__":
    main()
