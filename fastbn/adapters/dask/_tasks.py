"""What tasks compute: NumPy arrays in, NumPy arrays out. Dask is not imported here.

Between tasks, a channel is one record: of statistics, or of the two sums over a gradient.
"""

import math
from collections.abc import Iterator

import numpy as np

import fastbn

from .._records import STATS, pack, stats_of, unpack

NAMES = "sum_dy", "sum_dy_xhat"
SUMS = np.dtype([(name, np.float64) for name in NAMES])


def pack_pair(mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    """A mean and a variance as records without a count."""
    records = np.zeros(mean.shape, STATS)
    records["count"], records["mean"], records["m2"] = np.nan, mean, var
    return records


def _given(records: np.ndarray):
    """What records hold: `Stats`, or a pair of mean and variance."""
    flat = records.reshape(-1)
    if flat.size and np.isnan(flat["count"][0]):
        return flat["mean"].copy(), flat["m2"].copy()
    return unpack(records)


def ordered(records: np.ndarray, order: tuple[int, ...]) -> fastbn.Stats:
    """Statistics of all channels, in the order in which the caller named their axes."""
    return unpack(records.transpose(order))


def pack_ordered(stats, shape: tuple[int, ...], order: tuple[int, ...]) -> np.ndarray:
    """The inverse of `ordered`; of what another task has computed."""
    if not isinstance(stats, fastbn.Stats):
        raise TypeError(f"stats should compute to a Stats, got {type(stats).__name__}")
    channels = math.prod(shape)
    if stats.mean.size != channels:
        raise ValueError(f"stats should have {channels} channels, got {stats.mean.size}")
    return pack(stats, shape).transpose(order)


def axes_of(shape: tuple[int, ...], dtype: np.dtype, channel_axis) -> tuple[int, ...]:
    """The axes of the channels from the front; errors in fastbn's words, of an empty array."""
    nothing = (0,) * len(shape)
    try:
        fastbn.batch_stats(np.empty(nothing, dtype), channel_axis=channel_axis)
    except (TypeError, ValueError) as error:  # AxisError is one
        raise type(error)(str(error).replace(str(nothing), str(shape))) from None
    given = channel_axis if isinstance(channel_axis, tuple) else (channel_axis,)
    return tuple(int(axis) % len(shape) for axis in given)


def beside(weights, shape: tuple[int, ...], axes: tuple[int, ...]):
    """Weights, of NumPy or Dask, with one axis for each of x's but those of the channels."""
    lengths = tuple(n for axis, n in enumerate(shape) if axis not in axes)
    given = weights.shape
    if len(given) == len(shape) and all(given[axis] == 1 for axis in axes):
        weights = weights.squeeze(axes)
    pairs = zip(weights.shape, lengths, strict=False)
    if weights.ndim != len(lengths) or any(a not in (1, b) for a, b in pairs):
        wide = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
        raise ValueError(
            f"weights should have shape {lengths} or {wide}, or one that broadcasts to it with "
            f"as many axes, got {given}"
        )
    return weights


def _kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """A shape with 1 in place of every axis but those of the channels."""
    return tuple(length if axis in axes else 1 for axis, length in enumerate(shape))


def chunk_stats(x: np.ndarray, weights=None, *, axes) -> np.ndarray:
    """Records of one chunk."""
    with fastbn.threads(1, default=True):
        return pack(stats_of(x, axes, weights), _kept(x.shape, axes))


def _flat(parts) -> Iterator[np.ndarray]:
    """The arrays of nested lists, in order."""
    if isinstance(parts, list):
        for part in parts:
            yield from _flat(part)
    else:
        yield parts


def same(x: np.ndarray, axis, keepdims) -> np.ndarray:
    """What `dask.array.reduction` does to a chunk that is reduced already."""
    return x


def merge_stats(parts, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
    """Records of several chunks, merged in their order in the array."""
    records = list(_flat(parts))
    merged = fastbn.merge_stats([unpack(part) for part in records])
    return pack(merged, _reduced(records[0].shape, axis, keepdims))


def add_sums(parts, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
    """Sums of several chunks, added in their order in the array: halves to halves."""
    found = list(_flat(parts))
    total = np.empty(_reduced(found[0].shape, axis, keepdims), SUMS)
    for name in NAMES:
        values = [part[name] for part in found]
        with np.errstate(all="ignore"):
            while len(values) > 1:
                pairs = zip(values[::2], values[1::2], strict=False)
                values = [a + b for a, b in pairs] + values[len(values) & ~1 :]
        total[name] = values[0].reshape(total.shape)
    return total


def _reduced(shape, axis, keepdims: bool) -> tuple[int, ...]:
    return shape if keepdims else tuple(n for i, n in enumerate(shape) if i not in axis)


def _dense(x: np.ndarray) -> np.ndarray:
    """An array that fastbn takes without a copy: it would keep that memory for a next call."""
    if x.dtype.kind in "iub":
        return x.astype(np.float64)
    if not x.dtype.isnative or np.empty_like(x).strides != x.strides:
        return x.astype(x.dtype.newbyteorder("="))
    return x


def normalize(x, records, weight, bias, *, axes, eps) -> np.ndarray:
    """The output of one chunk: new memory, which Dask gives back, where fastbn would keep it."""
    x = _dense(x)
    given = _given(records), weight.reshape(-1), bias.reshape(-1)
    with fastbn.threads(1, default=True):
        return fastbn.normalize(x, *given, eps=eps, channel_axis=axes, out=np.empty_like(x))


def chunk_sums(dy, x, records, *, axes, eps) -> np.ndarray:
    """Sums over the gradient of one chunk."""
    with fastbn.threads(1, default=True):
        given = _dense(dy), _dense(x), unpack(records)
        sums = fastbn.backward_sums(*given, eps=eps, channel_axis=axes)
    found = np.empty(sums.sum_dy.size, SUMS)
    found["sum_dy"], found["sum_dy_xhat"] = sums.sum_dy, sums.sum_dy_xhat
    return found.reshape(_kept(x.shape, axes))


def backward_input(dy, x, records, found, weight, *, axes, eps) -> np.ndarray:
    """The input gradient of one chunk."""
    sums = fastbn.GradSums(*(found[name].reshape(-1) for name in NAMES))
    x = _dense(x)
    given = _dense(dy), x, unpack(records), sums, weight.reshape(-1)
    with fastbn.threads(1, default=True):
        return fastbn.backward_input(*given, eps=eps, channel_axis=axes, out=np.empty_like(x))


def batch(x, weights, channel_axis) -> fastbn.Stats:
    """Statistics of a batch that another task has made: an array, or a pair of it and weights."""
    if isinstance(x, tuple) and weights is None:
        if len(x) != 2:
            raise ValueError(f"should be an array or (x, weights), got a tuple of {len(x)}")
        x, weights = x
    x = x if isinstance(x, np.ndarray) else np.asarray(x)
    axes = axes_of(x.shape, x.dtype, channel_axis)
    if weights is not None:
        weights = beside(np.asarray(weights), x.shape, axes)
    order = tuple(sorted(axes))
    with fastbn.threads(1, default=True):
        stats = stats_of(x, order, weights)
    records = pack(stats, tuple(x.shape[axis] for axis in order))
    return ordered(records, tuple(map(order.index, axes)))


def numbered_batch(number: int, *given) -> fastbn.Stats:
    """`batch`, whose errors say which one."""
    try:
        return batch(*given)
    except (TypeError, ValueError) as error:
        raise named(number, error) from error


def named(number: int, error: TypeError | ValueError) -> TypeError | ValueError:
    """An error that says in which batch."""
    kinds = np.exceptions.AxisError, ValueError, TypeError
    kind = next(kind for kind in kinds if isinstance(error, kind))
    return kind(f"batch {number}: {error}")


def check_channels(first: tuple[int, int], other: tuple[int, int]) -> None:
    """Two batches, each as its number and how many channels it has."""
    if first[1] != other[1]:
        raise ValueError(
            f"batches should all have the same number of channels: batch {first[0]} has "
            f"{first[1]}, batch {other[0]} has {other[1]}"
        )


def merge_batches(parts: list[tuple[int, fastbn.Stats]]) -> fastbn.Stats:
    """Merge statistics, each with the number of its first batch."""
    (number, first), *others = parts
    for other, stats in others:
        check_channels((number, first.mean.size), (other, stats.mean.size))
    return fastbn.merge_stats([stats for _, stats in parts])
