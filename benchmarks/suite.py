"""What the asv classes share: which cases they run, and how a case is made ready.

A class here says what is measured on; a class in bench_forward.py and its siblings adds the
operation. asv gives each combination of parameters a process of its own.
"""

from functools import lru_cache
from math import prod

from .cases import CASES, FAMILIES, LAYOUTS, Data
from .libraries import prepared
from .measure import settle_allocator

SMALL = 50_000  # values; below it a call runs on one thread, and the body of a benchmark loops


@lru_cache(maxsize=1)
def ready(operation, case, layout, dtype):
    """The call to be timed, after a first time that loads its kernels.

    asv runs `setup` before every sample, hence the cache.
    """
    settle_allocator()
    call = prepared("fastbn", operation, Data(CASES[case], layout, dtype))
    call()
    return call


def names(*groups, small=False):
    """The names of the cases of these groups that are small, or that are not."""
    return [
        case.name
        for case in CASES.values()
        if case.group in groups and (prod(case.shape) < SMALL) == small
    ]


class Suite:
    """The call of an operation on a case, run `loops` times in a sample."""

    param_names = ("case", "layout", "dtype")
    loops = 1
    rounds = 2
    repeat = (3, 20, 2.0)  # least and most samples of a round, and its seconds
    timeout = 120

    def setup(self, case, layout, dtype):
        """Prepare the call."""
        self.call = ready(self.operation, case, layout, dtype)

    def run(self):
        """The body of the benchmarks."""
        call = self.call
        for _ in range(self.loops):
            call()


class ResNet50(Suite):
    """Every shape of ResNet-50 at 32 images."""

    params = (names("resnet50"), LAYOUTS, ("float32",))


class Double(Suite):
    """An early, a middle and the last shape of ResNet-50, in double precision."""

    params = (names("resnet50")[1::3][:2] + names("resnet50")[-1:], LAYOUTS, ("float64",))


class Networks(Suite):
    """Shapes of other networks, and odd ones."""

    params = (names(*FAMILIES["networks"]), LAYOUTS, ("float32",))


class Rows(Suite):
    """(N, D) data."""

    params = (names("rows"), LAYOUTS[:1], ("float32",))


class Small(Suite):
    """A thousand small calls, so that the milliseconds shown are the microseconds of one."""

    params = (names("rows", "small", small=True), LAYOUTS[:1], ("float32",))
    loops = 1000
