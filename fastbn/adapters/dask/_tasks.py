"""What tasks compute: NumPy arrays in, NumPy arrays out. Dask is not imported here.

Between tasks, a channel is one record: of statistics with every digit that `Stats.to_array` has, or
of the two sums over a gradient.
"""

from collections.abc import Iterator

import numpy as np

import fastbn

STATS = np.dtype(
    [(name, np.float64) for name in ("count", "count_low", "mean", "mean_low", "m2", "m2_low")]
)
SUMS = np.dtype([(name, np.float64) for name in ("sum_dy", "sum_dy_xhat")])
SLAB = 1 << 16  # values that are converted to float64 at once: 512 KB, which caches hold


def pack(stats: fastbn.Stats, shape: tuple[int, ...]) -> np.ndarray:
    """Statistics as records."""
    digits = stats.to_array()
    records = np.empty(stats.mean.size, STATS)
    records["count"], records["count_low"] = digits[:2]
    for name, row in zip(STATS.names[2:], digits[2:].reshape(4, -1), strict=True):
        records[name] = row
    return records.reshape(shape)


def unpack(records: np.ndarray) -> fastbn.Stats:
    """Records as statistics: every digit is kept."""
    flat = records.reshape(-1)
    if not flat.size:
        return fastbn.Stats.empty(0)
    counts = flat["count"][:1], flat["count_low"][:1]
    return fastbn.Stats.from_array(np.concatenate([*counts, *(flat[n] for n in STATS.names[2:])]))


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
    channels = int(np.prod(shape))
    if stats.mean.size != channels:
        raise ValueError(f"stats should have {channels} channels, got {stats.mean.size}")
    return pack(stats, shape).transpose(order)


def _kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """A shape with 1 in place of every axis but those of the channels."""
    return tuple(length if axis in axes else 1 for axis, length in enumerate(shape))


def stats_of(x: np.ndarray, axes: tuple[int, ...], weights=None) -> fastbn.Stats:
    """Statistics of one chunk, whose sums are all in float64: others lose digits of float32."""
    rest = [axis for axis in range(x.ndim) if axis not in axes]
    given = {"channel_axis": axes, "weights": weights}
    if x.dtype == np.float64 or not x.size or not rest:
        return fastbn.batch_stats(x.astype(np.float64, copy=False) if x.size else x, **given)
    along = max(rest, key=lambda axis: x.shape[axis])
    place = rest.index(along)
    step = max(1, SLAB * x.shape[along] // x.size)
    parts = []
    for start in range(0, x.shape[along], step):
        cut = slice(start, start + step)
        slab = x[(slice(None),) * along + (cut,)].astype(np.float64)
        if weights is not None and weights.shape[place] > 1:
            given["weights"] = weights[(slice(None),) * place + (cut,)]
        parts.append(fastbn.batch_stats(slab, **given))
    return fastbn.merge_stats(parts)


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
    for name in SUMS.names:
        values = [part[name] for part in found]
        with np.errstate(all="ignore"):
            while len(values) > 1:
                pairs = zip(values[::2], values[1::2], strict=False)
                values = [a + b for a, b in pairs] + values[len(values) & ~1 :]
        total[name] = values[0].reshape(total.shape)
    return total


def _reduced(shape, axis, keepdims: bool) -> tuple[int, ...]:
    return shape if keepdims else tuple(n for i, n in enumerate(shape) if i not in axis)


def normalize(x, records, weight, bias, *, axes, eps) -> np.ndarray:
    """The output of one chunk."""
    given = _given(records), weight.reshape(-1), bias.reshape(-1)
    with fastbn.threads(1, default=True):
        return fastbn.normalize(x, *given, eps=eps, channel_axis=axes)


def chunk_sums(dy, x, records, *, axes, eps) -> np.ndarray:
    """Sums over the gradient of one chunk."""
    with fastbn.threads(1, default=True):
        sums = fastbn.backward_sums(dy, x, unpack(records), eps=eps, channel_axis=axes)
    found = np.empty(sums.sum_dy.size, SUMS)
    found["sum_dy"], found["sum_dy_xhat"] = sums.sum_dy, sums.sum_dy_xhat
    return found.reshape(_kept(x.shape, axes))


def backward_input(dy, x, records, found, weight, *, axes, eps) -> np.ndarray:
    """The input gradient of one chunk."""
    sums = fastbn.GradSums(*(found[name].reshape(-1) for name in SUMS.names))
    given = dy, x, unpack(records), sums, weight.reshape(-1)
    with fastbn.threads(1, default=True):
        return fastbn.backward_input(*given, eps=eps, channel_axis=axes)
