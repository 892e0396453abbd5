"""Time libraries and the memory floor on one case, in one process, after a check of the results."""

from typing import NamedTuple

import numpy as np

from . import floor
from .cases import CASES, Data
from .libraries import arrays, prepared
from .measure import Times, interleaved, quietly

TOLERANCE = {"float32": 1e-6, "float64": 1e-10}  # of the largest value of each result
# NumPy and PyTorch sum long float32 channels in float32: up to 3e-3 off where fastbn is within 2e-7
TOLERANCE_OF_OTHERS = 1e-2


class Job(NamedTuple):
    """What is timed. `given`: calls that write into a given array."""

    operation: str
    given: bool
    layout: str
    dtype: str
    case: str

    def __str__(self):
        return f"{self.operation}{' into out' * self.given} of {self.case}, {self.layout}"


class Result(NamedTuple):
    """The times of a job by library and floor; None if the machine was too noisy."""

    job: Job
    times: dict[str, Times] | None
    notes: list[str]  # which libraries failed, and how


def timed(job, libraries, seconds):
    """Check the libraries that can do a job, and time them beside the floors."""
    data = Data(CASES[job.case], job.layout, job.dtype)
    calls, notes = checked(job, data, libraries)
    for name, variants in floor.calls(job.operation, data, job.given).items():
        calls |= {(name, k): call for k, call in enumerate(variants)}
    times = quietly(lambda: interleaved(calls, seconds))
    return Result(job, times and best(times), notes)


def checked(job, data, libraries):
    """({library: call}, notes): calls that have run once, with the right result."""
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


def check(library, result, expected, job):
    """Raise an AssertionError if a result is far from what is expected."""
    allowed = TOLERANCE[job.dtype] if library == "fastbn" else TOLERANCE_OF_OTHERS
    for want, got in zip(expected, result, strict=True):
        error = np.max(np.abs(want - got)) / np.max(np.abs(want))
        if not error <= allowed:
            raise AssertionError(f"{job}: {library} is off by {error:.1e}")


def best(times):
    """The same with one entry for the variants of a floor: the least of each statistic."""
    names = dict.fromkeys(name[0] if isinstance(name, tuple) else name for name in times)
    return {
        name: Times(*map(min, zip(*(times[k] for k in times if name in (k, k[0])), strict=True)))
        for name in names
    }
