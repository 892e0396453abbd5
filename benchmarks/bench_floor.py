"""How far passes are from the memory floor: 1 is the speed of memory. See floor.py."""

from functools import partial
from math import nan

from . import floor
from .cases import CASES, LAYOUTS, Data
from .libraries import prepared
from .measure import interleaved, quietly
from .suite import names
from .timing import best


class Floor:
    """fastbn's least time over that of one pass over the data, both into new arrays."""

    params = (names("resnet50")[1::3], LAYOUTS)
    param_names = ("case", "layout")
    unit = "times the floor"
    timeout = 120
    given = False

    def setup(self, case, layout):
        """Make the arrays, and give the floor as many threads as fastbn has."""
        import numba

        import fastbn

        numba.set_num_threads(fastbn.get_num_threads())
        self.data = Data(CASES[case], layout)

    def track_forward(self, case, layout):
        """A read of x and a write of as much."""
        return self.ratio("forward")

    def track_backward(self, case, layout):
        """A read of x and dy, and a write of as much as one of them."""
        return self.ratio("backward")

    def ratio(self, operation):
        """The two in turn, in one process; NaN if the machine was too noisy."""
        call = prepared("fastbn", operation, self.data, self.given)
        call()
        calls = {"fastbn": call}
        for k, variant in enumerate(floor.calls(operation, self.data, self.given)["one pass"]):
            calls["one pass", k] = variant
        if (times := quietly(partial(interleaved, calls, seconds=0.5), attempts=3)) is None:
            return nan
        least = best(times)
        return least["fastbn"].least / least["one pass"].least


class FloorOut(Floor):
    """The same, into given arrays."""

    given = True
