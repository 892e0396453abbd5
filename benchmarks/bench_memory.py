"""Memory: what a call takes beyond its output."""

from functools import partial

import numpy as np

from .cases import CASES, LAYOUTS, Data
from .measure import peak_allocation


class Memory:
    """Peak memory of a process that makes its arrays and runs one pass, and what the pass adds."""

    params = (("resnet50-32x64x112x112", "resnet50-32x2048x7x7"), LAYOUTS)
    param_names = ("case", "layout")
    unit = "times x"
    timeout = 120

    def setup(self, case, layout):
        """Make the arrays, and run both passes once into a given output to load the kernels."""
        import fastbn

        d = self.data = Data(CASES[case], layout)
        self.out = np.empty_like(d.x)
        _, saved = fastbn.forward(d.x, d.weight, d.bias, out=self.out)
        fastbn.backward(d.dy, saved, out=self.out)
        self.forward = partial(fastbn.forward, d.x, d.weight, d.bias)
        self.backward = partial(fastbn.backward, d.dy, saved)

    def peakmem_forward(self, case, layout):
        """Four arrays of the size of x: x, dy, a spare one, and the output."""
        self.forward()

    def peakmem_forward_out(self, case, layout):
        """Three: x, dy and the output, given."""
        self.forward(out=self.out)

    def peakmem_backward(self, case, layout):
        """Four, as in the forward pass."""
        self.backward()

    def peakmem_backward_out(self, case, layout):
        """Three, as in the forward pass."""
        self.backward(out=self.out)

    def track_forward(self, case, layout):
        """Bytes beyond the output, as a share of those of x."""
        return peak_allocation(self.forward) / self.data.x.nbytes - 1

    def track_forward_out(self, case, layout):
        """Bytes beyond the output, as a share of those of x."""
        return peak_allocation(partial(self.forward, out=self.out)) / self.data.x.nbytes

    def track_backward(self, case, layout):
        """Bytes beyond the output, as a share of those of x."""
        return peak_allocation(self.backward) / self.data.x.nbytes - 1

    def track_backward_out(self, case, layout):
        """Bytes beyond the output, as a share of those of x."""
        return peak_allocation(partial(self.backward, out=self.out)) / self.data.x.nbytes
