"""Weights, residual and activation: checked, and as kernels take them."""

import math
from typing import Any, NamedTuple

import numpy as np

from .._kernels import passes
from .._kernels.abi import VECTOR_BYTES
from .._runtime import errors, memory
from . import layout as _layout
from . import validate
from .layout import Layout

SLOPE = 0.01  # of leaky_relu, unless another is asked for
ACTIVATIONS = {"relu": passes.RELU, "leaky_relu": passes.LEAKY_RELU}
PLACES = 8  # values with a weight, from which a shift is taken


class Weights(NamedTuple):
    """A weight for each value of a channel, beside the values as they lie in memory."""

    values: np.ndarray  # times a power of two: none is above 2; a vector of zeros at each end
    places: np.ndarray  # where the first channel has weights
    sum: float  # of the values
    given: np.ndarray  # the weights themselves
    total: float  # of these, for all values of a channel


class Options(NamedTuple):
    """What a call asks for besides, checked; None and 0 where it does not."""

    weights: Weights | None
    residual: np.ndarray | None
    activation: int  # of `passes`
    slope: float


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
    wide = _broadcast(given, layout)
    least, most = (float(f(given)) if given.size else 0.0 for f in (np.min, np.max))
    total = _sum(wide)
    if not (least >= 0.0 and total < math.inf):
        what = f"{least} to {most}, in total {total}"
        raise ValueError(f"weights should be at least 0, and their total finite, got {what}")
    # The unit of weights means nothing but for the total: products of large ones might overflow.
    exponent = math.frexp(most)[1] - 1 if most else 0
    lanes = VECTOR_BYTES // layout.compute.itemsize
    room = memory.vector(wide.size + 2 * lanes, layout.compute)
    room[:lanes] = room[room.size - lanes :] = 0
    values = room[lanes : room.size - lanes]
    if exponent:
        wide = np.ldexp(wide.astype(np.float64), -exponent)
    values.reshape(wide.shape)[...] = wide
    return Weights(room, _places(values, layout), _sum(values), given, total)


def _sum(values: np.ndarray) -> float:
    """The sum in float64, first halves on second ones: NumPy's own follows the processor."""
    if values.dtype.kind == "b":
        return float(np.count_nonzero(values))
    rest = np.array(values, np.float64).ravel()
    with np.errstate(all="ignore"):
        while rest.size > 1:
            half = rest.size // 2
            odd = rest[2 * half :]
            rest = rest[:half] + rest[half : 2 * half]
            rest[:1] += odd if odd.size else 0.0
    return float(rest[0]) if rest.size else 0.0


def _broadcast(given: np.ndarray, layout: Layout) -> np.ndarray:
    """Weights of every sample and position, axes in the order of memory."""
    shape, axis = layout.shape, layout.axis
    positions = shape[:axis] + shape[axis + 1 :]
    narrow = given
    if given.ndim == len(shape) and given.shape[axis] == 1:
        narrow = given.reshape(given.shape[:axis] + given.shape[axis + 1 :])
    try:
        if narrow.ndim != len(positions):
            raise ValueError
        wide = np.broadcast_to(narrow, positions)
    except ValueError:
        beside = (*shape[:axis], 1, *shape[axis + 1 :])
        raise ValueError(
            f"weights should have shape {positions} or {beside}, or one that broadcasts to it with "
            f"as many axes, got {given.shape}"
        ) from None
    if layout.order is None:
        return wide
    return wide.transpose([i - (i > axis) for i in layout.order if i != axis])


def _places(values: np.ndarray, layout: Layout) -> np.ndarray:
    """Some values of the first channel that have a weight, spread over all of them."""
    found = np.flatnonzero(values)
    if not found.size:
        return np.zeros(PLACES, np.uintp)
    chosen = found[np.arange(PLACES) * found.size // PLACES]
    run = math.prod(layout.lies[layout.position + 1 :])
    return ((chosen // run) * (layout.channels * run) + chosen % run).astype(np.uintp)


def of_pass(
    options: Options, layout: Layout, dresidual: Any = None, bias: Any = None
) -> passes.Options:
    """Options as a pass takes them; a backward one has ``bias``, and ``dresidual`` to write."""
    task, arrays = options.activation, {"dresidual": dresidual, "bias": bias}
    total = float(layout.n)
    if options.weights is not None:
        task, total = task | passes.WEIGHTED, options.weights.sum
        arrays |= {"weights": options.weights.values, "places": options.weights.places}
    if options.residual is not None and layout.size:
        task |= passes.RESIDUAL
        arrays["residual"] = _layout.flatten(options.residual, layout)
    return passes.options(task, total, options.slope, **arrays)
