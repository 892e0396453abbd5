"""`bench`: one shape on this machine, in fastbn, NumPy and PyTorch, beside the memory floors."""

import argparse
import json
from pathlib import Path
from typing import Any

from . import picture
from .arguments import DTYPES, Commands, Refused, command, dtype, file, seconds, shape
from .facts import needs_compiler
from .times import FLOOR, Problem, Report, machine, measure, possible

SECONDS, ROUNDS, ATTEMPTS = 3.0, 5, 3
QUICK = 0.3, 2, 1  # the same of `--quick`
STDOUT = "-"
HEADINGS = ("operation", "library", "least us", "median us", "GB/s", "x fastbn", "x floor")
FOOT = (
    f"{FLOOR}, two passes: what moving the data takes, without arithmetic; x floor: to {FLOOR}.\n"
    "GB/s of what a call has to read and write at least. Results were checked against float64."
)


def add(commands: Commands) -> None:
    """The command."""
    text = "time one shape in fastbn, NumPy and PyTorch, beside the memory floors"
    parser = command(commands, "bench", run, text)
    add = parser.add_argument
    add("--shape", type=shape, default="32,64,56,56", help="default: %(default)s")
    add("--dtype", type=dtype, choices=DTYPES, default="float32", help="default: %(default)s")
    add("--channel-axis", type=int, default=1, metavar="AXIS", help="default: %(default)s")
    add("--threads", type=int, help="default: as `info` says")
    long = parser.add_mutually_exclusive_group()
    long.add_argument("--seconds", type=seconds, help=f"of timing, at least; default: {SECONDS}")
    long.add_argument("--quick", action="store_true", help="two rounds of calls, for a first look")
    add("--plot", type=picture.file, metavar="FILE", help="draw the times, in a .png, .svg or .pdf")
    text = "all figures, and the machine; without a file in place of the table"
    add("--json", type=_json_file, nargs="?", const=STDOUT, metavar="FILE", help=text)


def _json_file(text: str) -> Path | str:
    return text if text == STDOUT else file(text)


def run(options: argparse.Namespace) -> int:
    """Measure, and report in all the ways that are asked for."""
    problem = Problem(options.shape, options.dtype, options.channel_axis)
    possible(problem)
    if options.plot is not None and options.plot == options.json:
        raise Refused(f"argument --plot: {str(options.plot)!r} is the file of --json")
    needs_compiler()
    _set_threads(options.threads)
    how = QUICK if options.quick else (options.seconds or SECONDS, ROUNDS, ATTEMPTS)
    report, facts = measure(problem, *how), machine()
    kept = _as_json(problem, report, facts)
    if options.json == STDOUT:
        print(kept)
    else:
        print(_as_text(problem, report, facts))
    if options.json not in (None, STDOUT):
        options.json.write_text(kept + "\n")
    if options.plot is not None:
        picture.draw(report.rows, _title(problem, facts), options.plot)
    return 0


def _set_threads(threads: int | None) -> None:
    """Of every library."""
    from .._bench import libraries
    from .._runtime.threads import limits

    most = int(limits()["NUMBA_NUM_THREADS"])
    if threads is not None and not 1 <= threads <= most:
        text = f"{threads} is not from 1 to {most} (NUMBA_NUM_THREADS)"
        raise Refused(f"argument --threads: {text}")
    libraries.set_threads(threads)


def _title(problem: Problem, facts: dict[str, object]) -> str:
    """Two lines: what was timed, and on what."""
    size = f"{problem.bytes / 1e6:.3g} MB, channel axis {problem.channel_axis}"
    torch = f", PyTorch {facts['torch']}" if "torch" in facts else ""
    versions = f"fastbn {facts['fastbn']}, NumPy {facts['numpy']}{torch}"
    machine = f"{facts['cpu']}, {versions}, threads: {facts['threads']}"
    return f"{problem.shape} {problem.dtype}, {size}\n{machine}"


def _as_text(problem: Problem, report: Report, facts: dict[str, object]) -> str:
    """A table for the terminal."""
    form = "{:12}{:12}{:>12}{:>12}{:>8}{:>11}{:>11}"
    lines = [form.format(*HEADINGS)]
    for row in report.rows:
        micros = (f"{1e6 * time:,.1f}" for time in (row.least, row.median))
        ratios = (f"{ratio:,.2f}" for ratio in (row.times_fastbn, row.times_floor))
        lines.append(
            form.format(row.operation, row.library, *micros, f"{row.gb_per_s:.1f}", *ratios)
        )
    return "\n".join([_title(problem, facts), "", *lines, "", FOOT, *report.notes])


def _as_json(problem: Problem, report: Report, facts: dict[str, object]) -> str:
    """Everything, seconds in full."""
    found: dict[str, Any] = problem._asdict() | {"machine": facts, "notes": report.notes}
    return json.dumps(found | {"times": [row._asdict() for row in report.rows]}, indent=2)
