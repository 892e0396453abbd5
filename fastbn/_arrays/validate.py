"""Checks of arrays. Each message names the argument, what came and what was expected.

Those of numbers and names stand in `fastbn._runtime.errors`.
"""

import math

import numpy as np
from numpy.exceptions import AxisError

from .._runtime import memory
from .._runtime.errors import integer

# How a data type is computed: (dtype of the arithmetic, dtype of the output).
_SINGLE = (np.dtype(np.float32), np.dtype(np.float32))
_DOUBLE = (np.dtype(np.float64), np.dtype(np.float64))
_ORDINARY = (_SINGLE[0], _DOUBLE[0])


def dtypes(name: str, dtype: np.dtype) -> tuple[np.dtype, np.dtype]:
    """The dtype to compute in and the dtype of the output; TypeError for what is not real."""
    if dtype.kind == "f" and dtype.itemsize == 4:
        return _SINGLE
    if (dtype.kind == "f" and dtype.itemsize == 8) or dtype.kind in "iub":
        return _DOUBLE
    if dtype.kind == "f" and dtype.itemsize == 2:
        return _SINGLE[0], np.dtype(np.float16)
    if dtype.name == "bfloat16":
        return _SINGLE[0], dtype.newbyteorder("=")
    raise TypeError(
        f"{name} should be an array of float16, bfloat16, float32, float64, integers or booleans, "
        f"got dtype {dtype}"
    )


def array(name: str, value) -> np.ndarray:
    """``value`` as an array; a masked array would lose its mask without a word."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} should not be a masked array: its mask would be ignored; where a function "
            "takes weights, give it weights=~numpy.ma.getmaskarray(...) and the data alone"
        )
    try:
        return np.asarray(value)
    except MemoryError:
        raise
    except Exception as error:  # whatever its type finds wrong: PyTorch raises RuntimeError
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{name} should be an array, got {type(value).__name__}: {error}") from None


def scalar(name: str, value):
    """The one value of an array of shape () or (1,), as PyTorch keeps counts; else the value."""
    if isinstance(value, int):
        return value
    given = array(name, value)
    if given.shape not in ((), (1,)):
        raise ValueError(f"{name} should have shape () or (1,), got {given.shape}")
    return given.item()  # as Python's own: NumPy 2.0 takes its True for the index 1


def parameter_dtype(name: str, value) -> np.dtype:
    """The dtype of a layer's parameters: float32 or float64."""
    try:
        dtype = np.dtype(value)
    except TypeError:
        raise TypeError(f"{name} should be float32 or float64, got {value!r}") from None
    if dtype not in (_SINGLE[0], _DOUBLE[0]):
        raise TypeError(f"{name} should be float32 or float64, got {dtype}")
    return dtype


def channel_axis(value) -> int | tuple[int, ...]:
    """An axis, or several, as integers."""
    if not isinstance(value, tuple):
        return integer("channel_axis", value)
    if not value:
        raise ValueError("channel_axis should name at least one axis, got none")
    several = tuple(integer("channel_axis", item) for item in value)
    if len(set(several)) < len(several):
        raise ValueError(f"channel_axis should name different axes, got {several}")
    return several if len(several) > 1 else several[0]


def axes(
    channel_axis: int | tuple[int, ...], shape: tuple[int, ...], name: str = "x"
) -> tuple[int, ...]:
    """The axes of the channels, counted from the front."""
    given = channel_axis if isinstance(channel_axis, tuple) else (channel_axis,)
    rank = len(shape)
    if rank < 2:
        raise ValueError(f"{name} should have at least 2 dimensions, got {rank} (shape {shape})")
    for index in given:
        if not -rank <= index < rank:
            raise AxisError(
                f"channel_axis should be from {-rank} to {rank - 1} for {name} of shape {shape}, "
                f"got {index}"
            )
    found = tuple(index % rank for index in given)
    if len(set(found)) < len(found):
        raise ValueError(f"channel_axis should name different axes, got {given}")
    return found


def single_value(shape: tuple[int, ...]) -> ValueError:
    """Batch statistics of a single value a channel say nothing."""
    return ValueError(
        f"Expected more than 1 value per channel when training, got input size {shape}"
    )


def vector(name: str, value, channels: int, dtype=None) -> np.ndarray:
    """One real number of any precision a channel; a contiguous array of ``dtype``, if given."""
    given = array(name, value)
    if given.ndim != 1:
        raise ValueError(f"{name} should be 1-D with {channels} elements, got shape {given.shape}")
    if given.shape[0] != channels:
        raise ValueError(f"{name} should contain {channels} elements not {given.shape[0]}")
    if given.dtype.kind not in "fiub" and given.dtype.name != "bfloat16":
        raise TypeError(f"{name} should be an array of real numbers, got dtype {given.dtype}")
    if dtype is None or (given.dtype == dtype and given.flags.carray):
        return given
    made = memory.vector(channels, dtype)
    made[...] = given
    return made


def channels_flat(name: str, shape: tuple[int, ...], value) -> np.ndarray:
    """What belongs to channels of several axes, which it has the shape of, or is flat; flat."""
    given = array(name, value)
    if given.ndim != 1 and given.shape != shape:
        raise ValueError(
            f"{name} should have shape {shape} or ({math.prod(shape)},), got {given.shape}"
        )
    return given.reshape(-1)


def running_flat(name: str, shape: tuple[int, ...], value):
    """A running statistic of channels of several axes, flat: its own memory if that can be."""
    if not isinstance(value, np.ndarray) or value.ndim < 2:
        return value
    flat = channels_flat(name, shape, value)
    flat.setflags(write=value.flags.writeable)
    return flat


def apart(mean, var) -> None:
    """Two running statistics that one call updates: neither may be written through the other."""
    if np.may_share_memory(mean, var) and np.shares_memory(mean, var):
        raise ValueError("running_var should not overlap running_mean")


def defined(running_mean, running_var) -> None:
    """Statistics that evaluation needs."""
    for name, value in (("running_mean", running_mean), ("running_var", running_var)):
        if value is None:
            raise ValueError(f"{name} must be defined in evaluation mode")


def ordinary_pair(mean, var, channels: int) -> bool:
    """Whether kernels take two vectors as they are: such need no other check."""
    return (
        type(mean) is type(var) is np.ndarray
        and (dtype := mean.dtype) is var.dtype
        and dtype in _ORDINARY
        and mean.flags.carray
        and var.flags.carray
        and mean.shape == var.shape == (channels,)
    )


def running(name: str, value, channels: int) -> None:
    """A running statistic is updated in place: a writable float array of any stride."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} should be a NumPy array, got {type(value).__name__}")
    if type(value) is not np.ndarray or value.shape != (channels,):
        vector(name, value, channels)
    if value.dtype.kind != "f" and value.dtype.name != "bfloat16":
        raise TypeError(f"{name} should be a floating-point array, got dtype {value.dtype}")
    if not value.flags.writeable:
        raise ValueError(f"{name} should be writable, got a read-only array")


def running_pair(mean, var, channels: int) -> bool:
    """Two running statistics that one call updates; returns whether they are an `ordinary_pair`."""
    ordinary = ordinary_pair(mean, var, channels)
    if not ordinary:
        running("running_mean", mean, channels)
        running("running_var", var, channels)
    if not (mean.flags.owndata and var.flags.owndata and mean is not var):
        apart(mean, var)
    return ordinary


def output(name: str, out, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """An array to write into."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"{name} should be a plain NumPy array, got {type(out).__name__}")
    if out.shape != shape:
        raise ValueError(f"{name} should have shape {shape}, got {out.shape}")
    if out.dtype != dtype:
        raise TypeError(f"{name} should have dtype {dtype}, got {out.dtype}")
    if not out.flags.writeable:
        raise ValueError(f"{name} should be writable, got a read-only array")
    if not out.flags.c_contiguous and _overlaps_itself(out):
        raise ValueError(
            f"{name} should not be a broadcast or sliding view: its values share memory"
        )


def gradient(name: str, dy: np.ndarray, shape: tuple[int, ...]) -> None:
    """A gradient has the output's shape and is a floating-point array."""
    if dy.shape != shape:
        raise ValueError(f"{name} should have shape {shape}, got {dy.shape}")
    if dy.dtype in _ORDINARY:
        return
    dtypes(name, dy.dtype)
    if dy.dtype.kind in "iub":
        raise TypeError(f"{name} should be a floating-point array, got dtype {dy.dtype}")


def _overlaps_itself(a: np.ndarray) -> bool:
    """Whether a step along an axis is shorter than what lies within it: not so in any slice."""
    reach = a.itemsize
    for stride, length in sorted((abs(s), n) for s, n in zip(a.strides, a.shape, strict=True)):
        if length > 1 and stride < reach:
            return a.size > 0
        reach += (length - 1) * stride
    return False


def _steps(a: np.ndarray) -> list[int]:
    """Strides that matter: an axis of length 1 may have any."""
    return [stride for stride, length in zip(a.strides, a.shape, strict=True) if length > 1]


def overlap(out: np.ndarray, alias: np.ndarray | None, **others: np.ndarray | None) -> None:
    """``out`` may be exactly ``alias``; it may share no other memory with what is read."""
    for name, other in others.items():
        if other is None or not np.may_share_memory(out, other):
            continue
        same = (
            other is alias
            and out.__array_interface__["data"] == other.__array_interface__["data"]
            and out.shape == other.shape
            and _steps(out) == _steps(other)
            and out.dtype == other.dtype
        )
        if not same and np.shares_memory(out, other):
            allowed = "partially " if other is alias else ""
            raise ValueError(f"out should not {allowed}overlap {name}")
