"""Time fastbn beside plain NumPy and PyTorch, in one process.

    python -m benchmarks.compare [--op forward,backward] [--cases resnet50,rows] [--markdown]

Every result is checked against float64 before anything is timed. A ratio is another library's
time over fastbn's: above 1 fastbn is faster, below 1 it is slower.
"""

import argparse
from itertools import product

import numpy as np

from . import tables
from .cases import DTYPES, LAYOUTS, SHAPES, Data, select
from .libraries import OPERATIONS, arrays, installed
from .measure import QUIET, quiet_minima
from .tables import significant

TOLERANCE = {"float32": 1e-6, "float64": 1e-10}  # of the largest value of each result
# NumPy and PyTorch sum long float32 channels in float32: up to 3e-3 off where fastbn is within 2e-7
TOLERANCE_OF_OTHERS = 1e-2


def compare(operation, case, layout, dtype, seconds):
    """{library: seconds per call}, checked first; None if the machine was too noisy."""
    data = Data(case, layout, dtype)
    table = OPERATIONS[operation]
    calls = {name: table[name](data) for name in installed()}
    expected = arrays(table["NumPy"](data.in_double())())
    check(calls, expected, TOLERANCE[dtype], f"{operation} of {case.name}, {layout}, {dtype}")
    del expected
    return quiet_minima(calls, seconds)


def check(calls, expected, tolerance, what):
    """Raise an AssertionError if a result is far from what is expected."""
    for name, call in calls.items():
        allowed = tolerance if name == "fastbn" else TOLERANCE_OF_OTHERS
        for want, got in zip(expected, arrays(call()), strict=True):
            error = np.max(np.abs(want - got)) / np.max(np.abs(want))
            if not error <= allowed:
                raise AssertionError(f"{what}: {name} is off by {error:.1e}")


def rows_of(times, others):
    """A row per case, and a last one with the geometric means of the ratios."""
    ratios = []
    for case, seconds in times.items():
        if seconds is None:
            yield [case, *["noisy"] * (2 * len(others) + 1)]
            continue
        ratios.append([seconds[name] / seconds["fastbn"] for name in others])
        cells = [significant(1e6 * seconds[name]) for name in ("fastbn", *others)]
        yield [case, *cells, *(f"{significant(r)}x" for r in ratios[-1])]
    if ratios:
        means = np.exp(np.mean(np.log(ratios), axis=0))
        yield ["geometric mean", *[""] * (len(others) + 1), *(f"{significant(r)}x" for r in means)]


def options():
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.compare", description=__doc__.split("\n")[0])
    commas = {"type": lambda text: text.split(",")}
    parser.add_argument(
        "--op", default=["forward", "backward"], help=", ".join(OPERATIONS), **commas
    )
    parser.add_argument(
        "--cases",
        default=list(SHAPES),
        help=f"parts of names of cases: {', '.join(SHAPES)}",
        **commas,
    )
    parser.add_argument("--layouts", default=list(LAYOUTS), help=", ".join(LAYOUTS), **commas)
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--threads", type=int, help="default: as many as fastbn takes")
    parser.add_argument("--seconds", type=float, default=1.0, help="spent on timing a case")
    parser.add_argument("--markdown", action="store_true", help="tables for the README")
    return parser.parse_args()


def set_threads(threads):
    """Give fastbn and PyTorch the same number of threads."""
    import fastbn

    if threads is not None:
        fastbn.set_num_threads(threads)
    if "PyTorch" in installed():
        import torch

        torch.set_num_threads(fastbn.get_num_threads())


def main():
    """Compare what the command line asks for, a table for each operation and layout."""
    o = options()
    set_threads(o.threads)
    jobs = [
        (operation, layout, case)
        for operation, layout, case in product(o.op, o.layouts, select(o.cases))
        if layout in case.layouts
    ]
    results = {}
    for operation, layout, case in tables.progress(jobs, lambda job: f"{job[0]} {job[2].name}"):
        times = compare(operation, case, layout, o.dtype, o.seconds)
        results.setdefault((operation, layout), {})[case.name] = times
    others = [name for name in installed() if name != "fastbn"]
    for (operation, layout), times in results.items():
        headings = ["case", "fastbn", *others, *(f"to {name}" for name in others)]
        title = f"{operation}, {layout}, {o.dtype}, microseconds"
        tables.show(title, headings, rows_of(times, others), o.markdown)
    print("\nLeast of interleaved calls that allocate their output.", tables.machine())
    noisy = sum(case is None for times in results.values() for case in times.values())
    print(f"Noisy, so not timed: {noisy} of {len(jobs)} (other processes took over {QUIET:.0%}).")


if __name__ == "__main__":
    main()
