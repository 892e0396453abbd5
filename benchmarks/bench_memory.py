"""Memory: what a call takes beyond its output."""

import tracemalloc
from functools import partial

import numpy as np

import fastbn

from .cases import CASES, LAYOUTS, Data


class Memory:
    """Peak memory of a process that makes its arrays and runs one pass, and what the pass adds."""

    cases = ("resnet50-32x64x112x112", "resnet50-32x2048x7x7")
    params = (("forward", "backward"), ("new", "given"), cases, LAYOUTS)
    param_names = ("operation", "output", "case", "layout")
    timeout = 120

    def setup(self, operation, output, case, layout):
        """Make the arrays, and run both passes once into a given output to load the kernels."""
        d = self.data = Data(CASES[case], layout)
        self.spare = np.empty_like(d.x)
        _, saved = fastbn.forward(d.x, d.weight, d.bias, out=self.spare)
        fastbn.backward(d.dy, saved, out=self.spare)
        out = self.spare if output == "given" else None
        calls = {
            "forward": partial(fastbn.forward, d.x, d.weight, d.bias, out=out),
            "backward": partial(fastbn.backward, d.dy, saved, out=out),
        }
        self.call = calls[operation]

    def peakmem_process(self, operation, output, case, layout):
        """x, dy and an array that may be the output; a new output is a fourth of their size."""
        self.call()

    def track_beyond_output(self, operation, output, case, layout):
        """What NumPy and Python hold beyond the result, as a share of the bytes of x.

        Memory that is the system's own, or that compiled code takes, shows in the process only.
        """
        tracemalloc.start()
        result = self.call()
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        del result
        return (peak - held) / self.data.x.nbytes

    track_beyond_output.unit = "times x"
