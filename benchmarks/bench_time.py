"""Time of each operation on each case, in the layouts that the case has.

asv selects by any of them: `--bench Small`, or `--bench "Large.*'forward', 'resnet50"`. Each
combination has a process of its own.
"""

from functools import lru_cache

from .cases import CASES, HALVES, LAYOUTS, Data, missing
from .libraries import OPERATIONS, PASSES, STEPS, prepared
from .measure import settle_allocator

MANY = 50_000  # values; smaller calls run on one thread, and the body of a benchmark loops
LARGE = [case.name for case in CASES.values() if case.size >= MANY]
SOME = ("resnet50-32x64x56x56", "resnet50-32x512x28x28", "resnet50-32x2048x7x7")
SMALL = [case.name for case in CASES.values() if case.size < MANY]


@lru_cache(maxsize=1)
def ready(operation, case, layout, dtype):
    """The call to be timed, after a first time that loads its kernels.

    asv runs `setup` before every sample, hence the cache.
    """
    settle_allocator()
    call = prepared("fastbn", operation, Data(CASES[case], layout, dtype))
    call()
    return call


class Large:
    """Calls on all threads, in single precision."""

    params = (PASSES, LARGE, LAYOUTS, ("float32",))
    param_names = ("operation", "case", "layout", "dtype")
    loops = 1
    rounds = 2
    repeat = (3, 20, 2.0)  # least and most samples of a round, and its seconds
    timeout = 120

    def setup(self, operation, case, layout, dtype):
        """Prepare the call; asv shows n/a for rows in a second layout, and without ml_dtypes."""
        if layout not in CASES[case].layouts or missing(dtype):
            raise NotImplementedError
        self.call = ready(operation, case, layout, dtype)

    def time_call(self, operation, case, layout, dtype):
        """A call that allocates its output."""
        call = self.call
        for _ in range(self.loops):
            call()


class Double(Large):
    """An early, a middle and the last shape of ResNet-50, in double precision."""

    params = (PASSES, SOME, LAYOUTS, ("float64",))


class Step(Large):
    """Forward and backward, with what is fused into them."""

    params = (tuple(STEPS), (*SOME, "rows-10000x256"), LAYOUTS, ("float32",))


class Half(Large):
    """The types of 16 bits: each pass, and two of the steps."""

    params = ((*PASSES, "step_residual_relu", "step_weighted"), SOME, LAYOUTS, HALVES)


class Small(Large):
    """A thousand small calls, so that the milliseconds shown are the microseconds of one."""

    params = (OPERATIONS, SMALL, LAYOUTS, ("float32",))
    loops = 1000
