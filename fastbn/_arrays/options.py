"""Weights, residual and activation: checked, and as kernels take them."""

import math
from typing import Any, NamedTuple

import numpy as np

from .._kernels import passes
from .._kernels import weights as kernels
from .._kernels.abi import VECTOR_BYTES
from .._runtime import errors, memory
from . import layout as _layout
from . import validate
from .layout import Layout

SLOPE = 0.01  # of leaky_relu, unless another is asked for
ACTIVATIONS = {"relu": passes.RELU, "leaky_relu": passes.LEAKY_RELU}
PLACES = 8  # values with a weight, from which a shift is taken
_BYTE = np.dtype(np.uint8)
MODERATE = 32  # powers of two up to which the mean of weights is far from what overflows


class Weights(NamedTuple):
    """A weight for each value of a channel, beside the values as they lie in memory."""

    values: np.ndarray  # times a power of two, perhaps; and a vector of zeros at each end
    places: np.ndarray  # where the first channel has weights
    sum: float  # of the values
    total: float  # of the weights as they are given

    def rescale(self, buffer: np.ndarray) -> None:
        """Have the m2 that a pass has left in its buffer belong to the total."""
        if self.total != self.sum:
            with np.errstate(all="ignore"):  # infinite, if the total is that large
                buffer[1] *= self.total / self.sum


class Options(NamedTuple):
    """What a call asks for besides, checked; None and 0 where it does not."""

    weights: Weights | None
    residual: np.ndarray | None
    activation: int  # of `passes`
    slope: float

    def any(self) -> bool:
        """Whether there is one of them: a slope alone is none."""
        return self.weights is not None or self.residual is not None or self.activation != 0


def check_activation(activation, negative_slope) -> tuple[str | None, float]:
    """What is applied to an output, and its slope."""
    known = activation is None or (isinstance(activation, str) and activation in ACTIVATIONS)
    if not known:
        wanted = ", ".join(repr(name) for name in ACTIVATIONS)
        raise ValueError(f"activation should be None or one of {wanted}, got {activation!r}")
    return activation, errors.number("negative_slope", negative_slope, 0.0)


def checked(layout: Layout, weights, residual, activation, negative_slope) -> Options:
    """The options of a call on an array."""
    activation, slope = check_activation(activation, negative_slope)
    task = 0 if activation is None else ACTIVATIONS[activation]
    if residual is not None:
        residual = validate.array("residual", residual)
        if residual.shape != layout.shape:
            raise ValueError(f"residual should have shape {layout.shape}, got {residual.shape}")
        validate.dtypes("residual", residual.dtype)
    if weights is not None:
        weights = beside(weights, layout)
    return Options(weights, residual, task, slope)


def beside(given, layout: Layout) -> Weights:
    """Weights as kernels take them: in the order of memory, without the axis of the channels."""
    given = validate.array("weights", given)
    if given.dtype.kind not in "fiub" and given.dtype.name != "bfloat16":
        raise TypeError(f"weights should be an array of real numbers, got dtype {given.dtype}")
    wide = _in_order(spread(given, layout), layout)
    kind = _BYTE if given.dtype == np.bool_ else layout.compute
    lanes = VECTOR_BYTES // layout.compute.itemsize
    room = memory.vector(wide.size + 2 * lanes, kind)
    room[:lanes] = room[-lanes:] = 0
    values = room[lanes:-lanes]
    if kind is _BYTE:
        values.reshape(wide.shape)[...] = wide
        total = summed = float(np.count_nonzero(values.view(np.bool_)))
    else:
        total, summed = _take(given, wide, values)
    places = np.zeros(PLACES, np.uintp)
    if summed and layout.plan is not None:
        kernels.find_places(values, layout.channels, layout.plan.cut["run"], places)
    return Weights(room, places, summed, total)


def _take(given: np.ndarray, wide: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Put real weights where kernels read them; their sum, and that of what is put there."""
    if wide.dtype not in (np.float32, np.float64) or not wide.dtype.isnative:
        with np.errstate(over="ignore"):  # a longer type's largest
            wide = wide.astype(np.float64)
    flat = np.require(wide, requirements=("C", "A", "W")).reshape(-1)
    room, kind = np.empty(64), values.dtype.type
    total, summed = kernels.take(flat, kind(1.0), values, room)
    if not 0.0 <= total < math.inf:
        what = f"at least one of {np.nanmin(given)}" if total < 0.0 else f"a total of {total}"
        raise ValueError(f"weights should be at least 0, and their total finite, got {what}")
    # The unit of weights means nothing but for the total: products of large ones might overflow.
    exponent = math.frexp(total / wide.size)[1] if total else 0
    if abs(exponent) > MODERATE:
        moved = np.ldexp(flat.astype(np.float64), -exponent)
        _, summed = kernels.take(moved, kind(1.0), values, room)
    return total, summed


def spread(given: np.ndarray, layout: Layout) -> np.ndarray:
    """Weights of every sample and position: a view."""
    shape, axes = layout.shape, layout.axes
    rest = [axis for axis in range(len(shape)) if axis not in axes]
    positions = tuple(shape[axis] for axis in rest)
    if given.shape == positions:
        return given
    narrow = given
    if given.ndim == len(shape) and all(given.shape[axis] == 1 for axis in axes):
        narrow = given.reshape([given.shape[axis] for axis in rest])
    try:
        if narrow.ndim != len(positions):
            raise ValueError
        return np.broadcast_to(narrow, positions)
    except ValueError:
        beside = tuple(1 if axis in axes else length for axis, length in enumerate(shape))
        raise ValueError(
            f"weights should have shape {positions} or {beside}, or one that broadcasts to it with "
            f"as many axes, got {given.shape}"
        ) from None


def _in_order(wide: np.ndarray, layout: Layout) -> np.ndarray:
    """The same with axes in the order of memory."""
    if layout.order is None:
        return wide
    rest = [axis for axis in range(len(layout.shape)) if axis not in layout.axes]
    return wide.transpose([rest.index(axis) for axis in layout.order if axis in rest])


def of_pass(
    options: Options, layout: Layout, dresidual: Any = None, bias: Any = None
) -> passes.Options:
    """Options as a pass takes them; a backward one has ``bias``, and ``dresidual`` to write."""
    task, arrays = options.activation, {"dresidual": dresidual, "bias": bias}
    total = float(layout.n)
    if options.weights is not None:
        task, total = task | passes.WEIGHTED, options.weights.sum
        task |= passes.MASK if options.weights.values.dtype == np.uint8 else 0
        arrays |= {"weights": options.weights.values, "places": options.weights.places}
    if options.residual is not None and layout.size:
        task |= passes.RESIDUAL
        arrays["residual"] = _layout.flatten(options.residual, layout)
    return passes.options(task, total, options.slope, **arrays)
