"""Time libraries and the memory floor on one case, in one process, after a check of the results."""

from math import nan
from typing import NamedTuple

import numpy as np

from . import floor
from .cases import CASES, Data
from .libraries import STEPS, arrays, prepared
from .measure import Times, in_turn, quietly

# of the largest value of each result; of 16 bits, what rounding it takes
TOLERANCE = {"float64": 1e-10, "float32": 1e-6, "float16": 2**-11, "bfloat16": 2**-8}
# NumPy and PyTorch sum long float32 channels in float32, see `python -m benchmarks.accuracy`
TOLERANCE_OF_OTHERS = 1e-2
KINK = 0.05  # from 0: where rounding, of 16 bits perhaps, may decide what a ReLU does


class Job(NamedTuple):
    """What is timed. `given`: calls that write into a given array."""

    operation: str
    given: bool
    layout: str
    dtype: str
    case: str

    def __str__(self):
        return f"{self.operation}{' into out' * self.given} of {self.case}, {self.layout}"


def timed(job, libraries, seconds):
    """(records, notes): the times of a job by library and floor, and which libraries failed.

    A record is a row of the table in report.py. If the machine was too noisy there is one, with
    NaN for the times of fastbn.
    """
    calls, notes = turns(job, Data(CASES[job.case], job.layout, job.dtype), libraries)
    times = quietly(lambda: in_turn(calls, seconds)) or {"fastbn": Times(nan, nan)}
    return [job._asdict() | {"library": k} | t._asdict() for k, t in times.items()], notes


def turns(job, data, libraries):
    """({name: [call, ...]}, notes): what takes turns, the libraries' calls and the floors'."""
    calls, notes = checked(job, data, libraries)
    found = {library: [call] for library, call in calls.items()}
    return found | floor.calls(job.operation, data, job.given), notes


def checked(job, data, libraries):
    """({library: call}, notes): calls that have run once, with the right result."""
    spare_kinks(job.operation, data)
    expected = arrays(prepared("NumPy", job.operation, data.in_double())())
    calls, notes = {}, []
    for library in libraries:
        try:
            call = prepared(library, job.operation, data, job.given)
            result = call and arrays(call(), data.x.shape)
        except Exception as error:
            if library == "fastbn":
                raise
            notes.append(f"{library} failed: {job}: {type(error).__name__}: {error}".split("\n")[0])
            continue
        if call:
            check(library, result, expected, job)
            calls[library] = call
    return calls, notes


def spare_kinks(operation, data):
    """Let no gradient arrive where rounding may decide whether a ReLU passes it."""
    options = STEPS.get(operation, {})
    if options.get("relu"):
        double = data.in_double()
        (y,) = prepared("NumPy", "forward", double)()
        if options.get("residual"):
            y += double.residual
        data.dy[np.abs(y) < KINK] = 0


def check(library, result, expected, job):
    """Raise an AssertionError if a result is far from what is expected."""
    allowed = TOLERANCE[job.dtype] if library == "fastbn" else TOLERANCE_OF_OTHERS
    for want, got in zip(expected, result, strict=True):
        error = np.max(np.abs(want - got)) / np.max(np.abs(want))
        if not error <= allowed:
            raise AssertionError(f"{job}: {library} is off by {error:.1e}")
