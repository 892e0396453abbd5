"""What everything is measured on: named shapes, memory layouts, dtypes, and their arrays.

The asv suite, the comparison and the tests read this table and that of libraries.py.
"""

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from math import prod

import numpy as np

LAYOUTS = ("channels_first", "channels_last")
DTYPES = ("float32", "float64")
HALVES = ("float16", "bfloat16")


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
    def family(self):
        """What its geometric mean is taken with: one group, or all other networks."""
        return self.group if self.group in ("resnet50", "rows", "small") else "networks"

    @property
    def size(self):
        """The number of values."""
        return prod(self.shape)

    @property
    def layouts(self):
        """The memory layouts that differ for this shape: rows of (N, C) have only one."""
        return LAYOUTS if len(self.shape) > 2 else LAYOUTS[:1]


SHAPES: dict[str, list[tuple[int, ...]]] = {
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
CASES = {c.name: c for group, shapes in SHAPES.items() for c in (Case(group, s) for s in shapes)}


def missing(dtype):
    """Whether NumPy needs a package for this dtype that is not installed."""
    return dtype == "bfloat16" and not find_spec("ml_dtypes")


def select(patterns):
    """The cases with one of the patterns in their name, in the order of the table."""
    found = [case for case in CASES.values() if any(p in case.name for p in patterns)]
    if not found:
        raise ValueError(f"no case matches {', '.join(patterns)}; there are {', '.join(CASES)}")
    return found


class Data:
    """The arrays of a case. Those of its shape are made when they are first asked for.

    Channels-last arrays are transposed views of C-contiguous memory, so axis 1 holds the channels
    in every layout. Channels have their own means and deviations, which the running statistics are
    near to; `weight` is between 0.5 and 1.5, and `bias` between -1 and 1. With x of 16 bits, what
    there is by channel is float32, as in mixed precision.
    """

    def __init__(self, case, layout="channels_first", dtype="float32"):
        if layout not in case.layouts:
            raise ValueError(f"{case.name} has the layouts {case.layouts}, not {layout!r}")
        if dtype == "bfloat16":
            import ml_dtypes  # noqa: F401 - NumPy knows the name from then on
        self.case, self.layout, self.dtype = case, layout, np.dtype(dtype)
        dtype = self.compute = np.result_type(dtype, np.float32)
        channel = np.arange(case.shape[1])
        self.running_mean = (channel % 7 - 3).astype(dtype)
        self.running_var = ((1 + channel % 3) ** 2).astype(dtype)
        self.weight = np.linspace(0.5, 1.5, len(channel), dtype=dtype)
        self.bias = np.linspace(-1, 1, len(channel), dtype=dtype)

    @cached_property
    def x(self):
        """The input: channel c has mean c % 7 - 3 and deviation 1 + c % 3."""
        x, wide = self._normal(0), [-1] + [1] * (len(self.case.shape) - 2)
        x *= np.sqrt(self.running_var).reshape(wide)
        x += self.running_mean.reshape(wide)
        return x.astype(self.dtype, copy=False)

    @cached_property
    def dy(self):
        """The gradient that arrives from above."""
        return self._normal(1).astype(self.dtype, copy=False)

    @cached_property
    def residual(self):
        """What is added to the output."""
        return self._normal(2).astype(self.dtype, copy=False)

    @cached_property
    def mask(self):
        """Which positions count: three of four, and the same in all channels."""
        n, _, *rest = self.case.shape
        return np.random.default_rng(3).random((n, *rest)) < 0.75

    def in_double(self):
        """The same values in float64."""
        double = Data(self.case, self.layout, "float64")
        for name in ("x", "dy", "residual", "weight", "bias", "running_mean", "running_var"):
            setattr(double, name, getattr(self, name).astype(np.float64))
        return double

    def _normal(self, seed):
        """Standard normal values in the layout's order of memory."""
        n, c, *rest = self.case.shape
        last = self.layout == "channels_last"
        shape = (n, *rest, c) if last else (n, c, *rest)
        values = np.random.default_rng((0, seed)).standard_normal(shape, dtype=self.compute)
        return np.moveaxis(values, -1, 1) if last else values
