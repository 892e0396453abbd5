"""Statistics as records, one a channel, and those of any dtype to float64's digits.

Records are cut, joined and sent like any array.
"""

from typing import Any

import numpy as np

import fastbn

VALUES = "mean", "mean_low", "m2", "m2_low"
STATS = np.dtype([(name, np.float64) for name in ("count", "count_low", *VALUES)])
SLAB = 1 << 19  # values that are converted to float64 at once, 4 MB: few calls, and in the caches


def pack(stats: fastbn.Stats, shape: int | tuple[int, ...] = -1) -> np.ndarray:
    """Statistics as records, with every digit that `Stats.to_array` has."""
    digits = stats.to_array()
    records = np.empty(stats.mean.size, STATS)
    records["count"], records["count_low"] = digits[:2]
    for name, row in zip(VALUES, digits[2:].reshape(4, -1), strict=True):
        records[name] = row
    return records.reshape(shape)


def unpack(records: np.ndarray) -> fastbn.Stats:
    """Records that have one count as statistics: every digit is kept."""
    flat = records.reshape(-1)
    if not flat.size:
        return fastbn.Stats.empty(0)
    counts = flat["count"][:1], flat["count_low"][:1]
    return fastbn.Stats.from_array(np.concatenate([*counts, *(flat[n] for n in VALUES)]))


def stats_of(x: np.ndarray, axes: tuple[int, ...], weights=None) -> fastbn.Stats:
    """Statistics, whose sums are all in float64: others lose digits of float32."""
    rest = [axis for axis in range(x.ndim) if axis not in axes]
    given: dict[str, Any] = {"channel_axis": axes, "weights": weights}
    if x.dtype == np.float64 or not x.size or not rest:
        return fastbn.batch_stats(x.astype(np.float64, copy=False) if x.size else x, **given)
    along = max(rest, key=lambda axis: x.shape[axis])
    place = rest.index(along)
    step = max(1, SLAB * x.shape[along] // x.size)
    parts, wide = [], None
    for start in range(0, x.shape[along], step):
        cut = slice(start, start + step)
        slab = x[(slice(None),) * along + (cut,)]
        if wide is None or wide.shape != slab.shape:
            wide = np.empty_like(slab, np.float64)  # most slabs have one shape
        wide[...] = slab
        if weights is not None and weights.shape[place] > 1:
            given["weights"] = weights[(slice(None),) * place + (cut,)]
        parts.append(fastbn.batch_stats(wide, **given))
    return fastbn.merge_stats(parts)
