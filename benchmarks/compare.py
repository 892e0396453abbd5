"""Time fastbn beside plain NumPy, PyTorch, torch.compile and JAX, and beside the memory floor.

    python -m benchmarks.compare                              # fastbn, NumPy and PyTorch
    python -m benchmarks.compare --libraries all --out        # everything; compiling takes minutes
    python -m benchmarks.compare --op training,evaluation --cases small
    python -m benchmarks.compare --json run.json --readme README.md --png compare.png

All in one process, in turn, and every result is checked against float64 before anything is timed.
A "to" ratio is another library's time over fastbn's: above 1 fastbn is faster, below 1 it is
slower. An "of" ratio is fastbn's time over a memory floor (see floor.py). "worst" is the least of
the former and the largest of the latter.

With a given output (``--out``) a library takes part where it can write into one: fastbn and
PyTorch, whose gradients are timed as they are by default, as its ``out=`` copies them.
"""

import argparse
import os
from itertools import product

from . import picture, report, tables
from .cases import DTYPES, LAYOUTS, SHAPES, select
from .libraries import FILES, OPERATIONS, installed
from .measure import QUIET
from .timing import Job, timed

DEFAULT = ["fastbn", "NumPy", "PyTorch"]


def options(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def several(name, default, choices, text=""):
        help_ = f"{text}of {', '.join(choices)}; default: {', '.join(default)}"
        parser.add_argument(name, default=default, help=help_, type=lambda s: s.split(","))

    several("--op", ["forward", "backward"], OPERATIONS)
    several("--cases", list(SHAPES), SHAPES, "parts of names of cases: ")
    several("--layouts", list(LAYOUTS), LAYOUTS)
    several("--libraries", DEFAULT, ["all", *FILES])
    add = parser.add_argument
    add("--out", nargs="?", default="no", const="also", choices=("no", "also", "only"),
        help="whether to time calls with a given output")  # fmt: skip
    add("--dtype", default="float32", choices=DTYPES)
    add("--threads", type=int, help="default: as many as fastbn takes")
    add("--seconds", type=float, default=1.0, help="spent on timing a case, at least")
    add("--markdown", action="store_true", help="print Markdown")
    add("--readme", metavar="FILE", help="put Markdown between its marks <!-- compare -->")
    add("--png", metavar="FILE", help="draw the times as multiples of the floor")
    add("--json", metavar="FILE", help="keep the times")
    add("--load", metavar="FILE", help="report on times that were kept; measure nothing")
    o = parser.parse_args(arguments)
    known = {"--op": (o.op, OPERATIONS), "--layouts": (o.layouts, LAYOUTS),
             "--libraries": (o.libraries, ["all", *FILES])}  # fmt: skip
    for name, (values, choices) in known.items():
        if wrong := set(values) - set(choices):
            parser.error(f"{name}: {', '.join(wrong)} is not of {', '.join(choices)}")
    return o


def jobs(o):
    """What the options ask for, table by table."""
    given = {"no": (False,), "also": (False, True), "only": (True,)}[o.out]
    return [
        Job(operation, given_, layout, o.dtype, case.name)
        for operation, given_, layout, case in product(o.op, given, o.layouts, select(o.cases))
        if layout in case.layouts and not (given_ and operation == "statistics")
    ]


def set_threads(threads):
    """Give every library the same number of threads. JAX reads it when it is first used."""
    import numba

    import fastbn

    if threads is not None:
        fastbn.set_num_threads(threads)
    threads = fastbn.get_num_threads()
    numba.set_num_threads(threads)  # for the floors
    os.environ["NPROC"] = str(threads)
    if "PyTorch" in installed():
        import torch

        torch.set_num_threads(threads)


def measure(o):
    """(results, caption) of all the jobs."""
    asked = list(FILES) if "all" in o.libraries else ["fastbn", *o.libraries]
    libraries = [name for name in FILES if name in asked and name in installed()]
    set_threads(o.threads)
    results = [timed(job, libraries, o.seconds) for job in tables.progress(jobs(o))]
    missing = [name for name in FILES if name in asked and name not in libraries]
    noisy = sum(r.times is None for r in results)
    lines = [f"Interleaved calls in one process. {tables.machine(libraries)}."]
    lines += [f"Not installed: {', '.join(missing)}."] if missing else []
    share = f"other processes took over {QUIET:.0%}"
    lines += [f"Noisy, so not timed: {noisy} of {len(results)} ({share})."] if noisy else []
    return results, "\n".join([*lines, *(note for r in results for note in r.notes)])


def main():
    """Measure or load, and report in all the ways that are asked for."""
    o = options()
    results, caption = report.load(o.load) if o.load else measure(o)
    if o.json:
        report.save(o.json, results, caption)
    if o.markdown:
        print(report.markdown(results, caption))
    else:
        report.print_tables(results)
        print(caption)
    if o.readme:
        tables.replace(o.readme, "compare", report.markdown(results, caption))
    if o.png:
        picture.draw(results, o.png)


if __name__ == "__main__":
    main()
