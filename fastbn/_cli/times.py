"""What `bench` measures: libraries and floors on one problem, by the timing code of benchmarks/."""

from importlib.metadata import version
from math import prod
from typing import Any, NamedTuple

import fastbn

from .arguments import Failed, Refused
from .facts import granted

# Arrays of x's size that a call reads or writes at least once.
MOVED = {"forward": 2, "backward": 3, "evaluation": 2}
LIBRARIES = ("fastbn", "NumPy", "PyTorch")
FLOOR = "one pass"  # over the data, which nothing is faster than where they come from memory
# Bytes a value: the check holds data, results and what NumPy computes between in float64. From 87
# to 99 were measured, for float32 and float64, channels first and last.
NEEDED = 100
LEAST = 3  # values a channel: of two, all digits of a gradient are rounding, and cannot be checked


class Problem(NamedTuple):
    """What is timed: an array of one shape and dtype, with its channels on an axis."""

    shape: tuple[int, ...]
    dtype: str
    channel_axis: int

    @property
    def bytes(self) -> int:
        """Of x."""
        return prod(self.shape) * {"float64": 8, "float32": 4}.get(self.dtype, 2)

    def data(self) -> Any:
        """The arrays of the benchmarks, with the memory that this array has.

        Axes before the channels, or after them, lie in memory like one.
        """
        from .._bench.cases import Case, Data

        axis, n = self.channel_axis % len(self.shape), len(self.shape)
        before, channels, after = self.shape[:axis], self.shape[axis], self.shape[axis + 1 :]
        if axis == n - 1 and n > 2:
            return Data(
                Case("bench", (before[0], channels, *before[1:])), "channels_last", self.dtype
            )
        merged = self.shape if axis == 1 else (prod(before), channels, prod(after))
        return Data(Case("bench", merged), "channels_first", self.dtype)


class Row(NamedTuple):
    """Of one library or floor, seconds of a call that allocates its output."""

    operation: str
    library: str
    least: float
    median: float
    gb_per_s: float  # of what a call has to read and write at least
    times_fastbn: float
    times_floor: float


class Report(NamedTuple):
    """All rows, and what is to be said about them."""

    rows: list[Row]
    notes: list[str]


def measure(problem: Problem, seconds: float, rounds: int, attempts: int) -> Report:
    """Time each operation on a quiet machine, if it is in so many attempts."""
    from .._bench.libraries import installed

    libraries = [name for name in LIBRARIES if name in installed()]
    report = Report([], [])
    data = problem.data()
    for operation in MOVED:
        how = seconds / len(MOVED), rounds, attempts
        rows, notes = _operation(operation, problem, data, libraries, how)
        report.rows.extend(rows)
        report.notes.extend(note for note in notes if note not in report.notes)
    if problem.dtype in ("float16", "bfloat16"):
        report.notes.append("NumPy is left out: it would round the statistics to 16 bits.")
    if "PyTorch" not in libraries:
        report.notes.append("PyTorch is left out: it is not installed.")
    return report


def possible(problem: Problem) -> None:
    """Refuse what has no such axis, too few values, or no memory."""
    n = len(problem.shape)
    if not -n <= problem.channel_axis < n:
        text = f"{problem.channel_axis} is not an axis of {problem.shape}: from {-n} to {n - 1}"
        raise Refused(f"argument --channel-axis: {text}")
    values = prod(problem.shape) // problem.shape[problem.channel_axis]
    if values < LEAST:
        text = f"{problem.shape} has {values} values a channel, at least {LEAST} are needed"
        raise Refused(f"argument --shape: {text}")
    needed = NEEDED * prod(problem.shape)
    if needed > granted():
        text = f"{problem.shape} takes {needed / 1e9:,.3g} GB with the check of the results"
        raise Refused(f"argument --shape: {text}, where there are {granted() / 1e9:,.3g} GB")


def _operation(
    operation: str, problem: Problem, data: Any, libraries: list[str], how: tuple[float, int, int]
) -> tuple[list[Row], list[str]]:
    """(rows, notes) of an operation."""
    from .._bench.timing import Job, turns

    job = Job(operation, False, data.layout, problem.dtype, data.case.name)
    try:
        calls, notes = turns(job, data, libraries)
        times, quiet = _timed(calls, *how)
    except MemoryError as error:
        raise Refused(f"argument --shape: no memory for {problem.shape}") from error
    except AssertionError as error:
        raise Failed(f"nothing is timed, for a result is wrong: {error}") from error
    if not quiet:
        notes.append("The machine was busy with other processes: times are rough.")
    moved = MOVED[operation] * problem.bytes / 1e9
    own, floor = times["fastbn"].least, times[FLOOR].least
    rows = [
        Row(
            operation,
            name,
            found.least,
            found.median,
            gb_per_s=moved / found.least,
            times_fastbn=found.least / own,
            times_floor=found.least / floor,
        )
        for name, found in times.items()
    ]
    return rows, notes


def _timed(calls: Any, seconds: float, rounds: int, attempts: int) -> tuple[Any, bool]:
    """({name: Times}, quiet): of a quiet machine, or else of the last attempt."""
    from .._bench.measure import in_turn, quietly

    last: Any = None

    def attempt() -> Any:
        nonlocal last
        last = in_turn(calls, seconds, rounds)
        return last

    quiet = quietly(attempt, attempts) is not None
    return last, quiet


def machine() -> dict[str, object]:
    """What `info` says, and the version of PyTorch."""
    from .._bench.libraries import installed

    others = {"torch": version("torch")} if "PyTorch" in installed() else {}
    return fastbn.config_info() | others
