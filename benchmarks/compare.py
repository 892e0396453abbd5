"""Time fastbn beside plain NumPy, PyTorch, torch.compile and JAX, and beside the memory floor.

    python -m benchmarks.compare                              # fastbn, NumPy and PyTorch
    python -m benchmarks.compare --libraries all --out        # everything; compiling takes minutes
    python -m benchmarks.compare --op training evaluation --cases small
    python -m benchmarks.compare --op step step_residual_relu --libraries PyTorch torch.compile
    python -m benchmarks.compare --op module module_step --libraries PyTorch torch.compile
    python -m benchmarks.compare --dtype float32 float16 bfloat16
    python -m benchmarks.compare --json run.json --readme docs/speed.md --png compare.png
    python -m benchmarks.compare --load run.json --summary --readme README.md

Calls take turns in one process, and every result is checked against float64 before anything is
timed. A "to" ratio is another library's time over fastbn's: above 1 fastbn is faster, below 1 it
is slower. An "of" ratio is fastbn's time over a memory floor (see floor.py). "worst" is the least
of the former and the largest of the latter.

With a given output (``--out``) a library takes part where it can write into one: fastbn and
PyTorch, whose gradients are timed as they are by default, as its ``out=`` copies them. A step has
none. NumPy has no part in 16 bits, to which it would round the statistics.
"""

import argparse
import sys
from itertools import product

from . import picture, report
from .cases import DTYPES, HALVES, LAYOUTS, SHAPES, select
from .libraries import FILES, MODULES, OPERATIONS, STEPS, installed, set_threads
from .measure import QUIET
from .timing import Job, timed


def options(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    operations = *OPERATIONS, *MODULES
    add("--op", nargs="+", choices=operations, default=["forward", "backward"])
    add("--cases", nargs="+", default=list(SHAPES), metavar="PART", help="of names of cases")
    add("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    add("--libraries", nargs="+", choices=["all", *FILES], default=list(FILES)[:3])
    add("--out", nargs="?", default="no", const="also", choices=("no", "also", "only"),
        help="whether to time calls with a given output")  # fmt: skip
    add("--dtype", nargs="+", choices=(*DTYPES, *HALVES), default=["float32"])
    add("--threads", type=int, help="default: as many as fastbn takes")
    add("--seconds", type=float, default=1.0, help="spent on timing a case, at least")
    add("--summary", action="store_true", help="one small table: geometric means and worst cases")
    add("--markdown", action="store_true", help="print Markdown")
    add("--readme", metavar="FILE", help="put Markdown between its marks <!-- compare -->")
    add("--png", metavar="FILE", help="draw the times as multiples of the floor")
    add("--json", metavar="FILE", help="keep the times")
    add("--load", metavar="FILE", help="report on times that were kept; measure nothing")
    return parser.parse_args(arguments)


def jobs(o):
    """What the options ask for, table by table."""
    given = {"no": (False,), "also": (False, True), "only": (True,)}[o.out]
    return [
        Job(operation, given_, layout, dtype, case.name)
        for operation, given_, dtype, layout, case in product(
            o.op, given, o.dtype, o.layouts, select(o.cases)
        )
        if layout in case.layouts and not (given_ and operation in ("statistics", *STEPS, *MODULES))
    ]


def measure(o):
    """(times, caption) of all the jobs."""
    asked = list(FILES) if "all" in o.libraries else ["fastbn", *o.libraries]
    libraries = [name for name in FILES if name in asked and name in installed()]
    set_threads(o.threads)
    found, todo = [], jobs(o)
    for k, job in enumerate(todo, 1):
        print(f"{k}/{len(todo)} {job}", file=sys.stderr)
        found.append(timed(job, libraries, o.seconds))
    times = report.frame([record for records, _ in found for record in records])
    missing = [name for name in FILES if name in asked and name not in libraries]
    noisy, share = times["least"].isna().sum(), f"other processes took over {QUIET:.0%}"
    lines = [f"Calls took turns in one process. {report.machine(libraries)}."]
    lines += [f"Not installed: {', '.join(missing)}."] if missing else []
    lines += [f"Noisy, so not timed: {noisy} of {len(found)} ({share})."] if noisy else []
    return times, "\n".join([*lines, *(note for _, notes in found for note in notes)])


def main():
    """Measure or load, and report in all the ways that are asked for."""
    o = options()
    import pandas  # noqa: F401 - it should be missing before an hour of timing, not after it

    times, caption = report.load(o.load) if o.load else measure(o)
    if o.json:
        report.save(o.json, times, caption)
    short = report.overview(times) if o.summary else report.tables(times, medians="summary")
    markdown = "\n\n".join([*(report.markdown(*table) for table in short), caption])
    if o.markdown:
        print(markdown)
    else:
        full = short if o.summary else report.tables(times)
        print("\n".join([*(report.text(*table) for table in full), caption]))
    if o.readme:
        report.replace(o.readme, "compare", markdown)
    if o.png:
        picture.draw(times, o.png)


if __name__ == "__main__":
    main()
