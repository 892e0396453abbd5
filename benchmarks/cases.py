"""What everything is measured on: named shapes, memory layouts, dtypes, and their arrays.

The asv suite, the comparison and the tests read this table and that of libraries.py.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

LAYOUTS = ("channels_first", "channels_last")
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Case:
    """A named shape: channels on axis 1, as in (N, C), (N, C, H, W) and so on."""

    group: str
    shape: tuple[int, ...]

    @property
    def name(self):
        """For example `resnet50-32x64x112x112`."""
        return f"{self.group}-{'x'.join(map(str, self.shape))}"

    @property
    def layouts(self):
        """The memory layouts that differ for this shape: rows of (N, C) have only one."""
        return LAYOUTS if len(self.shape) > 2 else LAYOUTS[:1]


SHAPES = {
    # every shape that batch norm meets in ResNet-50, 32 images of 224 x 224
    "resnet50": [
        (32, 64, 112, 112),
        (32, 64, 56, 56),
        (32, 256, 56, 56),
        (32, 128, 28, 28),
        (32, 512, 28, 28),
        (32, 256, 14, 14),
        (32, 1024, 14, 14),
        (32, 512, 7, 7),
        (32, 2048, 7, 7),
    ],
    "input": [(64, 3, 224, 224), (2, 3, 1024, 1024)],  # images themselves: few, huge channels
    "inception": [(16, 64, 149, 149), (16, 288, 35, 35)],  # odd planes
    "mobilenet": [(32, 16, 112, 112), (32, 96, 14, 14)],
    "unet": [(4, 32, 256, 256)],
    "video": [(4, 64, 8, 56, 56)],
    "audio": [(32, 128, 1000)],
    "odd": [(8, 128, 17, 31)],
    # (N, D), as the layers of a multilayer perceptron or the columns of a data set
    "rows": [(64, 100), (256, 1024), (10000, 256), (100352, 64), (500000, 16), (4096, 4096)],
    # the cost of a call more than of its arithmetic
    "small": [(32, 100), (8, 16), (4, 8, 6, 6)],
}
# groups whose geometric means are of interest
FAMILIES = {
    "resnet50": ("resnet50",),
    "networks": ("input", "inception", "mobilenet", "unet", "video", "audio", "odd"),
    "rows": ("rows",),
    "small": ("small",),
}
CASES = {c.name: c for group, shapes in SHAPES.items() for c in (Case(group, s) for s in shapes)}


def select(patterns):
    """The cases with one of the patterns in their name, in the order of the table."""
    found = [case for case in CASES.values() if any(p in case.name for p in patterns)]
    if not found:
        raise ValueError(f"no case matches {', '.join(patterns)}; there are {', '.join(CASES)}")
    return found


class Data:
    """The arrays of a case, each made when it is first asked for.

    Channels-last arrays are transposed views of C-contiguous memory, so axis 1 holds the channels
    in every layout. Channels have their own means and deviations.
    """

    def __init__(self, case, layout="channels_first", dtype="float32", seed=0):
        if layout not in case.layouts:
            raise ValueError(f"{case.name} has the layouts {case.layouts}, not {layout!r}")
        self.case, self.layout, self.dtype, self.seed = case, layout, np.dtype(dtype), seed

    @cached_property
    def x(self):
        """The input: channel c has mean c % 7 - 3 and deviation 1 + c % 3."""
        c = np.arange(self.channels)
        x = self._normal(0)
        x *= self._per_channel(1 + c % 3)
        x += self._per_channel(c % 7 - 3)
        return x

    @cached_property
    def dy(self):
        """The gradient that arrives from above."""
        return self._normal(1)

    @cached_property
    def weight(self):
        """Between 0.5 and 1.5."""
        return np.linspace(0.5, 1.5, self.channels, dtype=self.dtype)

    @cached_property
    def bias(self):
        """Between -1 and 1."""
        return np.linspace(-1, 1, self.channels, dtype=self.dtype)

    @cached_property
    def running_mean(self):
        """Near the means of x."""
        return (np.arange(self.channels) % 7 - 3).astype(self.dtype)

    @cached_property
    def running_var(self):
        """Near the variances of x."""
        return ((1 + np.arange(self.channels) % 3) ** 2).astype(self.dtype)

    def empty(self):
        """An array to write into, in the memory order of x."""
        return np.empty_like(self.x)

    def in_double(self):
        """The same values in float64."""
        double = Data(self.case, self.layout, "float64", self.seed)
        for name in ("x", "dy", "weight", "bias", "running_mean", "running_var"):
            setattr(double, name, getattr(self, name).astype(np.float64))
        return double

    @property
    def channels(self):
        """The length of axis 1."""
        return self.case.shape[1]

    def _normal(self, stream):
        rng = np.random.default_rng((self.seed, stream))
        n, c, *rest = self.case.shape
        last = self.layout == "channels_last"
        values = rng.standard_normal((n, *rest, c) if last else (n, c, *rest), dtype=self.dtype)
        return np.moveaxis(values, -1, 1) if last else values

    def _per_channel(self, values):
        return values.astype(self.dtype).reshape(-1, *[1] * (len(self.case.shape) - 2))
