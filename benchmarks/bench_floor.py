"""How far passes are from the memory floor: 1 is the speed of memory. See floor.py."""

from functools import partial
from math import nan

from . import floor
from .cases import CASES, LAYOUTS, Data
from .libraries import prepared
from .measure import in_turn, quietly


class Floor:
    """fastbn's least time over that of one pass over the data, both into the same kind of array."""

    cases = ("resnet50-32x64x56x56", "resnet50-32x512x28x28", "resnet50-32x512x7x7")
    params = (("forward", "backward"), ("new", "given"), cases, LAYOUTS)
    param_names = ("operation", "output", "case", "layout")
    unit = "times the floor"
    timeout = 120

    def setup(self, operation, output, case, layout):
        """Make the arrays, and run the pass once to load its kernels."""
        how = operation, Data(CASES[case], layout), output == "given"
        one_pass = floor.calls(*how)["one pass"]
        self.calls = {"fastbn": [prepared("fastbn", *how)], "one pass": one_pass}
        self.calls["fastbn"][0]()

    def track_ratio(self, operation, output, case, layout):
        """The two take turns in one process; NaN if the machine was too noisy."""
        times = quietly(partial(in_turn, self.calls, seconds=0.5), attempts=3)
        return times["fastbn"].least / times["one pass"].least if times else nan
