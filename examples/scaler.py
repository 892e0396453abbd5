"""Standardise a stream of readings: scikit-learn's StandardScaler, fastbn's, and exact fractions.

    python examples/scaler.py [--parts 10000] [--rows 5] [--output scaler.png] [--quick]

A station sends a few readings at a time: a share of 0 to 1, a power of 1 to 1000 W, a clock whose
seconds are counted from 1970, and a counter of 1e8 and a little more. Both scalers learn part after
part by `partial_fit`; fastbn's learns once more on four machines, whose scalers are merged. What
their variances are off is told by fractions, which round nothing, and drawn part after part.
"""

import pickle
from fractions import Fraction

import command_line
import numpy as np
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from sklearn import preprocessing

from fastbn.adapters.sklearn import StandardScaler

COLUMNS = "share", "power, W", "clock, s", "counter"
MACHINES = 4
ALLOWED = 1e-13  # of the variance
WATCHED = 30  # numbers of parts after which variances are looked at
LEAST = 1e-18  # where an error of 0 is drawn on a scale that has none
THEIRS, OURS, MERGED = "scikit-learn", "fastbn", f"fastbn, {MACHINES} merged"
STYLES = {  # colours told apart with any kind of colour vision
    THEIRS: {"color": "#D55E00"},
    OURS: {"color": "#0072B2"},
    MERGED: {"color": "#0072B2", "marker": "D", "mfc": "white", "ms": 7, "linestyle": ""},
}


def readings(parts, rows):
    """Parts of some rows each; a reading every half second, with a jitter."""
    rng = np.random.default_rng(0)
    n = parts * rows
    share = rng.random(n)
    power = 1 + 999 * rng.beta(2, 5, n)
    clock = 1.7e9 + np.arange(n) / 2 + rng.normal(0, 0.05, n)
    counter = 1e8 + rng.standard_normal(n)
    return np.split(np.stack([share, power, clock, counter], axis=1), parts)


def exact_variances(column, counts):
    """Of a column's first values, as fractions: one for each count."""
    found, total, squares, seen = [], Fraction(), Fraction(), 0
    for count in counts:
        values = [Fraction(value) for value in column[seen:count].tolist()]
        total, squares, seen = total + sum(values), squares + sum(v * v for v in values), count
        found.append((squares - total**2 / count) / count)
    return found


def fitted(kind, parts, watched=()):
    """A scaler that has seen part after part, and its variances after so many of them."""
    scaler, variances = kind(), []
    for number, part in enumerate(parts, 1):
        scaler.partial_fit(part)
        if number in watched:
            variances.append(scaler.var_.copy())
    return scaler, variances


def merged(parts):
    """A scaler of four, each fitted on a quarter of the parts and sent as bytes."""
    quarters = (parts[k::MACHINES] for k in range(MACHINES))
    sent = [pickle.dumps(fitted(StandardScaler, quarter)[0]) for quarter in quarters]
    return StandardScaler().merge(*map(pickle.loads, sent))


def relative_error(variance, true):
    """Of a float, beside a fraction."""
    return float(abs(Fraction(float(variance)) / true - 1))


def results(parts, watched):
    """{way: errors, a row for each number of parts, the last for all}, and exact variances."""
    counts = [number * len(parts[0]) for number in watched]
    columns = [exact_variances(column, counts) for column in np.concatenate(parts).T]
    exact = list(zip(*columns, strict=True))
    variances = {
        THEIRS: fitted(preprocessing.StandardScaler, parts, watched)[1],
        OURS: fitted(StandardScaler, parts, watched)[1],
        MERGED: [merged(parts).var_],
    }
    off = np.vectorize(relative_error)
    found = {name: off(rows, exact[-len(rows) :]) for name, rows in variances.items()}
    return found, [float(var) for var in exact[-1]]


def table(found, exact, title):
    """A row per column of the readings."""
    made = Table(title=title, box=SIMPLE_HEAD)
    made.add_column("column")
    for heading in ("exact variance", *found):
        made.add_column(heading, justify="right")
    for j, column in enumerate(COLUMNS):
        errors = [f"{rows[-1, j]:.0e}" for rows in found.values()]
        made.add_row(column, f"{exact[j]:.12g}", *errors)
    return made


def draw(found, watched, title, path):
    """Save a panel per column: errors by the number of parts."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, len(COLUMNS), sharex=True, sharey=True)
    for j, (axis, column) in enumerate(zip(panels, COLUMNS, strict=True)):
        for name, errors in found.items():
            values = np.maximum(errors[:, j], LEAST)
            axis.loglog(watched[-len(values) :], values, label=name, **STYLES[name])
        axis.axhline(2.0**-53, color="0.5", linewidth=1, linestyle=":", label="rounding once")
        axis.set(title=column, xlabel="parts")
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("relative error of the variance")
    lines, labels = panels[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=130)


def read_command_line():
    """The options; a message for those that cannot work, before anything is computed."""
    parser = command_line.new_parser(__doc__, "scaler.png", "a few parts, to see it work")
    parser.add_argument("--parts", type=int, default=10_000, help="calls of partial_fit")
    parser.add_argument("--rows", type=int, default=5, help="readings of each part")
    options = parser.parse_args()
    if options.parts < MACHINES:
        parser.error(f"--parts should be at least {MACHINES}, got {options.parts}")
    if options.rows < 2:
        parser.error(f"--rows should be at least 2, got {options.rows}")
    return options


def main():
    """Read the command line, fit, report."""
    options = read_command_line()
    parts = readings(min(options.parts, 500) if options.quick else options.parts, options.rows)
    watched = np.unique(np.geomspace(1, len(parts), WATCHED).round().astype(int)).tolist()
    found, exact = results(parts, watched)
    title = f"Relative errors of variances after {len(parts):,} parts of {options.rows} readings"
    console = Console()
    console.print(table(found, exact, title))
    worst = {name: errors[-1].max() for name, errors in found.items()}
    console.print("Worst: " + ", ".join(f"{name} {error:.0e}" for name, error in worst.items()))
    draw(found, watched, f"Variances learnt in parts of {options.rows} readings", options.output)
    console.print(f"Picture: {options.output}", soft_wrap=True)
    if max(worst[OURS], worst[MERGED]) > ALLOWED:
        raise SystemExit(f"fastbn's variances should be within {ALLOWED:.0e} of the exact ones")


if __name__ == "__main__":
    main()
