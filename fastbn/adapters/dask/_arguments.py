"""Arguments, checked before any work; with fastbn's own words where it can be asked."""

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.delayed import Delayed

import fastbn

from . import _tasks as tasks


class Input(NamedTuple):
    """An array and its channels."""

    array: da.Array
    axes: tuple[int, ...]  # of the channels, in the caller's order
    like: Any  # the DataArray that it came in, or None

    @property
    def sorted(self) -> tuple[int, ...]:
        """The axes of the channels, as tasks see them."""
        return tuple(sorted(self.axes))

    @property
    def order(self) -> tuple[int, ...]:
        """How sorted axes of channels are brought into the caller's order."""
        return tuple(self.sorted.index(axis) for axis in self.axes)

    @property
    def inverse(self) -> tuple[int, ...]:
        """How axes of channels in the caller's order are sorted."""
        return tuple(self.axes.index(axis) for axis in self.sorted)

    @property
    def channel_shape(self) -> tuple[int, ...]:
        """Lengths of the channels' axes in the caller's order."""
        return tuple(self.array.shape[axis] for axis in self.axes)

    @property
    def channels(self) -> int:
        """How many there are."""
        return math.prod(self.channel_shape)

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Chunks of what has one value a channel."""
        return tuple(self.array.chunks[axis] for axis in self.sorted)

    @property
    def empty(self) -> np.ndarray:
        """No values of as many channels, to ask fastbn about other arguments."""
        return blank(self.array, self.axes)

    def check_many(self) -> None:
        """Statistics of a batch are of more than one value a channel."""
        shape = self.array.shape
        if math.prod(n for axis, n in enumerate(shape) if axis not in self.axes) == 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {shape}"
            )

    def wrapped(self, result: da.Array):
        """An array of x's shape as the caller hands over x."""
        return result if self.like is None else self.like.copy(data=result)


def blank(array: da.Array, axes: tuple[int, ...]) -> np.ndarray:
    """An empty array with the dtype, and the channels, of another."""
    return np.empty([n if i in axes else 0 for i, n in enumerate(array.shape)], array.dtype)


def is_array(value) -> bool:
    """Whether `value` is an array that `collection` takes."""
    return isinstance(value, da.Array | np.ndarray) or data_array(value)


def data_array(value) -> Any:
    """Whether `value` is an xarray.DataArray; xarray is not imported for that."""
    xarray = sys.modules.get("xarray")
    return xarray is not None and isinstance(value, xarray.DataArray)


def collection(name: str, value) -> da.Array:
    """A Dask array of chunks whose lengths are known."""
    if data_array(value):
        value = value.data
    if type(value) is np.ndarray:
        value = da.from_array(value)
    if not isinstance(value, da.Array):
        raise TypeError(
            f"{name} should be a Dask array, an xarray.DataArray or a NumPy array, "
            f"got {type(value).__name__}"
        )
    if type(value._meta) is not np.ndarray:
        raise TypeError(
            f"{name} should have chunks that are NumPy arrays, got {type(value._meta).__name__}"
        )
    if any(math.isnan(length) for length in value.shape):
        raise ValueError(
            f"{name} should have chunks of known lengths, got shape {value.shape}; "
            "compute_chunk_sizes() finds them"
        )
    return value


def see(value, channel_axis, name: str = "x", skip: int = 0) -> Input:
    """An array and the axes of its channels; `skip` axes in front are those of batches."""
    array = collection(name, value)
    like = value if data_array(value) else None
    if like is not None:
        channel_axis = _numbers(like.dims[skip:], channel_axis)
    axes = tasks.axes_of(array.shape[skip:], array.dtype, channel_axis)
    return Input(array, tuple(axis + skip for axis in axes), like)


def _numbers(dims: tuple, channel_axis):
    """Axes of an xarray.DataArray by number, if they are given by name."""
    if isinstance(channel_axis, tuple):
        return tuple(_numbers(dims, item) for item in channel_axis)
    if not isinstance(channel_axis, str):
        return channel_axis
    if channel_axis not in dims:
        raise ValueError(f"channel_axis should be one of {dims}, got {channel_axis!r}")
    return dims.index(channel_axis)


def gradient(dy, x: Input) -> da.Array:
    """A gradient with x's shape and chunks."""
    if x.like is not None and data_array(dy) and set(dy.dims) == set(x.like.dims):
        dy = dy.transpose(*x.like.dims)
    array = collection("dy", dy)
    if array.shape != x.array.shape:
        raise ValueError(f"dy should have shape {x.array.shape}, got {array.shape}")
    stats = fastbn.Stats.empty(x.channels)
    fastbn.backward_sums(blank(array, x.axes), x.empty, stats, channel_axis=x.axes)
    return array.rechunk(x.array.chunks, method="tasks")  # p2p would hold all of it


def weights(value, x: Input) -> da.Array | None:
    """Weights by sample and position, in chunks that fit x's; axes of length 1 stay so."""
    if value is None:
        return None
    rest = [axis for axis in range(x.array.ndim) if axis not in x.axes]
    if x.like is not None and data_array(value) and set(value.dims) <= set(x.like.dims):
        dims = x.like.dims
        value = value.expand_dims([dim for dim in dims if dim not in value.dims])
        value = value.transpose(*dims)
    if isinstance(value, list | tuple):
        value = np.asarray(value)
    array = collection("weights", value)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise TypeError(f"weights should be an array of real numbers, got dtype {array.dtype}")
    array = tasks.beside(array, x.array.shape, x.axes)
    chunks = {i: x.array.chunks[axis] for i, axis in enumerate(rest) if array.shape[i] != 1}
    return array.rechunk(chunks)


def vector(name: str, value):
    """One value a channel, as it came: an array of NumPy or of Dask."""
    if data_array(value):
        value = value.data
    if isinstance(value, Delayed):
        raise TypeError(f"{name} should be an array, got Delayed: dask.array.from_delayed makes it")
    if isinstance(value, da.Array):
        return collection(name, value)
    return value


def stand_in(value):
    """What shape and dtype of an array of Dask can be checked by."""
    return np.zeros(value.shape, value.dtype) if isinstance(value, da.Array) else value


def per_channel(value, default: float, x: Input) -> da.Array:
    """What has one value a channel, in chunks that fit x's, sorted as x's axes are."""
    shape = x.channel_shape
    if value is None:
        value = np.full(shape, default)
    if not isinstance(value, da.Array):
        value = np.asarray(value).reshape(shape).transpose(x.inverse)
        return da.from_array(value, chunks=x.chunks)
    return value.reshape(shape).transpose(x.inverse).rechunk(x.chunks)


def asked(function: Callable, x: Input, *args, **options):
    """What fastbn says to arguments beside an array of no values, and gives."""
    return function(x.empty, *map(stand_in, args), channel_axis=x.axes, **options)
