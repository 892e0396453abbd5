"""SHA-256 of every kind of call, which every processor should give: `python -m fastbn verify`.

One of the calls without options; one of weights, residual, activation and float16; one of bfloat16,
which needs a package of its own.

The cases reach every walk through memory: whole arrays and slabs, plain and non-temporal stores
(whatever the processor's caches are), sums in the data's own precision and those that need float64,
the functions, the layers and the seed interface. Their inputs are made of integers by operations
that are exact everywhere: NumPy's random normals, logarithms and sums follow the processor.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

import fastbn

from ._arrays import layout

Arrays = Iterator[np.ndarray]


def _as_it_is(x: np.ndarray) -> np.ndarray:
    return x


def _channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def _strided(x: np.ndarray) -> np.ndarray:
    return np.repeat(x, 2, axis=-1)[..., ::2]


def _reversed(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.flip(x))[(slice(None, None, -1),) * x.ndim]


def _swapped(x: np.ndarray) -> np.ndarray:
    return x.astype(x.dtype.newbyteorder())


# name: shape, channel axis, dtype, offset of the values, how they lie in memory
Case = tuple[tuple[int, ...], int, str, float, Callable[[np.ndarray], np.ndarray]]
SMALL: dict[str, Case] = {
    "short runs": ((16, 65, 8, 8), 1, "f4", 3.0, _as_it_is),
    "short runs, double": ((16, 65, 8, 8), 1, "f8", 3.0, _as_it_is),
    "odd runs": ((35, 100, 7, 7), 1, "f4", 3.0, _as_it_is),
    "odd runs, double": ((19, 70, 11, 13), 1, "f8", 0.0, _as_it_is),
    "few channels": ((8, 3, 120, 121), 1, "f4", 100.0, _as_it_is),
    "one channel": ((1, 1, 300_001), 1, "f8", 1e6, _as_it_is),
    "long runs": ((3, 2, 40_001), 1, "f4", 3.0, _as_it_is),
    "runs of every kind": ((13, 7, 2_345), 1, "f4", 0.0, _as_it_is),
    "last": ((16, 28, 28, 24), -1, "f4", 3.0, _as_it_is),
    "last, a view": ((16, 24, 28, 28), 1, "f4", 3.0, _channels_last),
    "rows": ((5_003, 64), 1, "f4", 1e4, _as_it_is),
    "wide rows": ((40, 5_001), 1, "f8", 3.0, _as_it_is),
    "one column": ((70_003, 1), 1, "f4", 3.0, _as_it_is),
    "three columns": ((30_001, 3), 1, "f4", 3.0, _as_it_is),
    "columns of runs": ((90, 50, 7), 1, "f4", 3.0, _as_it_is),
    "columns of odd runs": ((301, 4, 127), 1, "f4", 3.0, _as_it_is),
    "tiles of runs": ((19, 1_400, 3), 1, "f8", 3.0, _as_it_is),
    "strided": ((16, 24, 28, 28), 1, "f8", 3.0, _strided),
    "half, swapped": ((16, 24, 28, 28), 1, "f2", 3.0, _swapped),
    "integers": ((3, 11, 16, 17, 18), 1, "i4", 3.0, _as_it_is),
    "reversed": ((4, 3, 5, 6), 1, "f4", 3.0, _reversed),
    "two values a channel": ((2, 130), 1, "f4", 3.0, _as_it_is),
    "three values a channel": ((3, 70), 1, "f8", 3.0, _as_it_is),
    "four values a channel": ((2, 4_097, 2), 1, "f4", 3.0, _as_it_is),
    "a small image": ((2, 3, 17, 19), 1, "f4", 3.0, _as_it_is),
    "a small image, double": ((2, 3, 17, 19), 1, "f8", 3.0, _as_it_is),
    "runs of few vectors": ((19, 40, 20), 1, "f4", 3.0, _as_it_is),
    "runs of few vectors, double": ((19, 40, 19), 1, "f8", 3.0, _as_it_is),
    "one sample of short runs": ((1, 3_001, 9), 1, "f4", 3.0, _as_it_is),
    "short runs of few samples": ((5, 701, 3), 1, "f4", 3.0, _as_it_is),
    "short runs of few samples, double": ((3, 301, 5), 1, "f8", 3.0, _as_it_is),
    "a few short runs": ((3, 7, 5), 1, "f4", 3.0, _as_it_is),
    "few long runs": ((3, 5, 3_001), 1, "f4", 3.0, _as_it_is),
    "few rows": ((5, 3_001), 1, "f4", 3.0, _as_it_is),
    "rows that are left": ((23, 300), 1, "f4", 3.0, _as_it_is),
    "rows that are left, double": ((15, 90), 1, "f8", 3.0, _as_it_is),
}
# Once as with a cache that is larger, and once as with a small one, from which slabs and
# non-temporal stores come.
LARGE: dict[str, Case] = {
    "slabs": ((5, 256, 40, 41), 1, "f4", 3.0, _as_it_is),
    "slabs, double": ((5, 128, 40, 41), 1, "f8", 3.0, _as_it_is),
    "slabs of odd runs": ((40, 500, 7, 7), 1, "f4", 3.0, _as_it_is),
    "slabs of one sample": ((1, 50, 30_001), 1, "f4", 3.0, _as_it_is),
    "large, last": ((16, 40, 40, 64), -1, "f4", 3.0, _as_it_is),
    "large, three columns": ((200_001, 3), 1, "f4", 3.0, _as_it_is),
    "large rows, double": ((3_001, 100), 1, "f8", 3.0, _as_it_is),
}
# With weights, residual and activation; 16-bit ones without them as well.
OPTIONS: dict[str, Case] = {
    "options, short runs": ((16, 65, 8, 8), 1, "f4", 3.0, _as_it_is),
    "options, odd runs, double": ((9, 70, 11, 13), 1, "f8", 0.0, _as_it_is),
    "options, long runs": ((3, 2, 20_001), 1, "f4", 100.0, _as_it_is),
    "options, one channel": ((5, 1, 4_001), 1, "f8", 3.0, _as_it_is),
    "options, columns of runs": ((90, 50, 7), 1, "f4", 3.0, _as_it_is),
    "options, columns of runs, double": ((50, 90, 3), 1, "f8", 3.0, _as_it_is),
    "options, short runs of few samples": ((5, 301, 3), 1, "f4", 3.0, _as_it_is),
    "options, last": ((8, 28, 28, 24), -1, "f4", 3.0, _as_it_is),
    "options, last, a view": ((8, 64, 14, 15), 1, "f4", 3.0, _channels_last),
    "options, three channels last": ((5, 30, 31, 3), -1, "f4", 3.0, _as_it_is),
    "options, twenty channels last, double": ((9, 17, 18, 20), -1, "f8", 3.0, _as_it_is),
    "options, rows": ((1_003, 64), 1, "f4", 1e4, _as_it_is),
    "options, wide rows": ((40, 1_501), 1, "f4", 3.0, _as_it_is),
    "options, strided": ((6, 24, 13, 14), 1, "f4", 3.0, _strided),
    "options, a small image": ((2, 3, 17, 19), 1, "f4", 3.0, _as_it_is),
    "options, a few short runs, double": ((3, 7, 5), 1, "f8", 3.0, _as_it_is),
    "half, short runs": ((16, 65, 8, 8), 1, "f2", 3.0, _as_it_is),
    "half, last": ((8, 13, 14, 24), -1, "f2", 3.0, _as_it_is),
    "half, rows": ((1_003, 65), 1, "f2", 3.0, _as_it_is),
    "half, a small image": ((2, 3, 17, 19), 1, "f2", 3.0, _as_it_is),
}
BFLOAT16: dict[str, Case] = {
    "bfloat16, short runs": ((16, 65, 8, 8), 1, "bfloat16", 3.0, _as_it_is),
    "bfloat16, last": ((8, 13, 14, 24), -1, "bfloat16", 3.0, _as_it_is),
    "bfloat16, rows": ((1_003, 65), 1, "bfloat16", 3.0, _as_it_is),
    "bfloat16, a small image": ((2, 3, 17, 19), 1, "bfloat16", 3.0, _as_it_is),
}
LARGE_OPTIONS: dict[str, Case] = {
    "options, slabs": ((5, 128, 40, 41), 1, "f4", 3.0, _as_it_is),
    "options, large, last": ((8, 40, 40, 40), -1, "f4", 3.0, _as_it_is),
    "half, slabs": ((5, 128, 40, 41), 1, "f2", 3.0, _as_it_is),
}
CASES = SMALL | LARGE | OPTIONS | LARGE_OPTIONS | BFLOAT16
GROUPS = {
    "digest": (*SMALL, *LARGE),
    "options": (*OPTIONS, *LARGE_OPTIONS),
    "bfloat16": (*BFLOAT16,),
}
# For Python without a compiler.
TINY = {
    "digest": (
        "reversed",
        "two values a channel",
        "three values a channel",
        "a small image",
        "a small image, double",
        "a few short runs",
    ),
    "options": (
        "options, a small image",
        "options, a few short runs, double",
        "half, a small image",
    ),
    "bfloat16": ("bfloat16, a small image",),
}
CACHES = {"large cache": 1 << 40, "small cache": 1}  # bytes
TEAM = 4  # threads at most where there are slabs, which want several groups of channels for each
SPOILT = (
    "short runs",
    "odd runs, double",
    "one channel",
    "long runs",
    "last",
    "rows",
    "wide rows",
    "columns of runs",
    "reversed",
    "a small image",
    "short runs of few samples",
    "rows that are left",
    "slabs",
    "slabs, double",
    "options, short runs",
    "options, last",
    "options, rows",
    "options, a small image",
    "half, short runs",
    "bfloat16, rows",
)


def _integers(n: int, seed: int) -> np.ndarray:
    """Random words (splitmix64: Steele, Lea & Flood 2014)."""
    z = np.arange(n, dtype=np.uint64) + np.uint64(seed << 32)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _uniform(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """float64 from -1 to 1, all of whose digits are random."""
    words = _integers(math.prod(shape), seed) >> np.uint64(11)
    return (words.astype(np.float64) / 2.0**52 - 1.0).reshape(shape)


def _spoil(x: np.ndarray, axis: int) -> None:
    """Make the first channels hard, as far as there are so many."""
    channels = np.moveaxis(x, axis, 0)
    tiny = 1e-310 if x.dtype == np.float64 else 1e-40  # subnormal
    for values, change in zip(channels, (1e30, 1e-30, tiny), strict=False):
        values *= x.dtype.type(change)
    for values, first in zip(channels[3:], (1e6, np.inf, np.nan), strict=False):
        values[(0,) * values.ndim] = first
    channels[6:7] = 7.25


def functions(x, dy, weight, bias, axis: int) -> Arrays:
    """What the functions give for a batch."""
    channels = x.shape[axis]
    other = np.float32 if x.dtype == np.float64 else np.float64
    mean, var = np.zeros(channels, other), np.ones(channels, other)
    y, saved = fastbn.forward(x, weight, bias, channel_axis=axis)
    yield from (y, *fastbn.backward(dy, saved)[:3], saved.stats.mean, saved.stats.m2)
    yield fastbn.batch_norm(x, mean, var, weight, bias, True, channel_axis=axis)
    yield from (mean, var)
    yield fastbn.batch_norm(x, mean, var, weight, bias, channel_axis=axis)
    yield fastbn.normalize(x, (mean, var), weight, channel_axis=axis)
    _, fixed = fastbn.forward(x, weight, bias, channel_axis=axis, stats=saved.stats, eps=1e-3)
    yield from fastbn.backward(dy, fixed)[:3]
    # Where x is the mean, y is what its rounding has left.
    rounded = np.moveaxis(np.empty_like(x), axis, -1)
    rounded[...] = saved.stats.mean.astype(x.dtype)
    rounded = np.moveaxis(rounded, -1, axis)
    yield fastbn.normalize(rounded, saved.stats, weight, channel_axis=axis)
    parts = np.array_split(x, 3) if len(x) > 2 else [x, x]
    whole = fastbn.merge_stats(fastbn.batch_stats(part, channel_axis=axis) for part in parts)
    yield from (whole.mean, whole.m2, whole.var(1), whole.std())
    mean, var = (values.astype(np.float16)[::-1] for values in (weight, weight))
    fastbn.update_running_stats(mean, var, whole, 0.3)
    yield from (mean, var)


def options(x, dy, weight, bias, axis: int) -> Arrays:
    """What the functions give with weights, residual and activation."""
    positions = np.delete(x.shape, axis)
    real = np.maximum(3.0 * _uniform(tuple(positions), 1), 0.0)  # half of them 0
    real.flat[:2] = 1.0
    hidden, residual = x.copy(), (dy * dy.dtype.type(0.5)).astype(x.dtype)
    np.moveaxis(hidden, axis, -1)[real == 0.0] = np.nan
    for values, weights, added, activation in (
        (hidden, real > 0.0, None, None),
        (hidden, real, residual, "relu"),
        (hidden, real.astype(np.float32), None, "leaky_relu"),
        (x, None, residual, "leaky_relu"),
        (x, None, None, "relu"),
        (x, None, residual, None),
    ):
        applied = {"residual": added, "activation": activation, "negative_slope": 0.1}
        applied |= {"channel_axis": axis}
        y, saved = fastbn.forward(values, weight, bias, weights=weights, **applied)
        yield from (y, *fastbn.backward(dy, saved), saved.stats.mean, saved.stats.m2)
        yield fastbn.normalize(x, saved.stats, weight, bias, **applied)
        fixed = fastbn.forward(x, weight, bias, stats=saved.stats, **applied)[1]
        yield from fastbn.backward(dy, fixed)
    yield fastbn.batch_stats(hidden, channel_axis=axis, weights=real).mean


def layer(x, dy, weight, bias, axis: int) -> Arrays:
    """What a layer gives in training, in evaluation and backwards, and its state."""
    bn = fastbn.BatchNorm(x.shape[axis], channel_axis=axis, dtype=weight.dtype)
    bn.weight[...], bn.bias[...] = weight, bias
    for _ in range(2):
        yield bn(x)
        yield bn.backward(dy)
    yield bn.eval()(x)
    yield from (bn.weight_grad, bn.bias_grad, *bn.state_dict().values())


def algebra(x, dy, weight, bias, axis: int) -> Arrays:
    """What the parts of a pass give, second derivatives, and groups that are renormalised."""
    where = {"channel_axis": axis}
    y, saved = fastbn.forward(x, weight, bias, **where)
    sums = fastbn.backward_sums(dy, x, saved.stats, **where)
    yield from (sums.sum_dy, sums.sum_dy_xhat)
    yield fastbn.backward_input(dy, x, saved.stats, sums, weight, **where)
    yield from fastbn.double_backward(dy, saved, dy[::-1], weight, bias)
    yield fastbn.denormalize(y, saved.stats, weight, bias, **where)
    bn = fastbn.BatchRenorm(x.shape[axis], rmax=1.5, dmax=0.5, virtual_batch_size=3, **where)
    yield bn(x)
    yield bn.backward(dy)
    yield from (bn.weight_grad, bn.bias_grad, *bn.state_dict().values())


def seed_interface(x, dy, weight, bias, axis: int) -> Arrays:
    """What the seed interface gives for rows, (N, D)."""
    rows = np.ascontiguousarray(np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]))
    grads = np.ascontiguousarray(np.moveaxis(dy, axis, -1).reshape(rows.shape))
    param: dict = {"mode": "train"}
    out, cache = fastbn.batchnorm_forward(rows, weight, bias, param)
    yield from (out, *fastbn.batchnorm_backward(grads, cache))
    yield from (param["running_mean"], param["running_var"])
    param["mode"] = "test"
    yield fastbn.batchnorm_forward(rows, weight, bias, param)[0]


def sha256(arrays: Iterable[np.ndarray | None]) -> str:
    """The SHA-256 of some arrays; all NaNs count as one."""
    sha = hashlib.sha256()
    for a in arrays:
        if a is None:
            continue
        if a.dtype.name == "bfloat16":
            a = a.astype(np.float32)
        a = np.array(a, a.dtype.newbyteorder("<"), order="C")
        if a.dtype.kind == "f":
            a[np.isnan(a)] = np.nan
        sha.update(a.tobytes())
    return sha.hexdigest()


def digest(name: str, spoilt: bool = False) -> str:
    """The SHA-256 of one case, whose place in the table decides on its values."""
    shape, axis, dtype, offset, lay = CASES[name]
    seed, c = 4 * list(CASES).index(name), shape[axis]
    numbers = np.arange(float(c)).reshape(
        [c if i == axis % len(shape) else 1 for i in range(len(shape))]
    )
    x = _uniform(shape, seed) * (1.0 + numbers % 3.0) + (offset + numbers % 7.0 / 4.0)
    kind = _dtype(dtype)
    x = (4.0 * x).astype(kind)
    if spoilt:
        with np.errstate(over="ignore"):  # of float16
            _spoil(x, axis)
    dy = _uniform(shape, seed + 1).astype("f8" if kind.kind == "i" else kind)
    weight, bias = 1.25 + _uniform((c,), seed + 2), _uniform((c,), seed + 3)
    if x.dtype != np.float64:
        weight, bias = weight.astype(np.float32), bias.astype(np.float32)
    kinds: tuple[Callable[..., Arrays], ...] = (functions, layer, seed_interface, algebra)
    if name not in SMALL:
        kinds = (functions,) if name in LARGE or dtype in ("f2", "bfloat16") else ()
        kinds += () if name in LARGE else (options,)
    with np.errstate(all="ignore"):
        return sha256(a for kind in kinds for a in kind(lay(x), dy, weight, bias, axis))


def _dtype(name: str) -> np.dtype:
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def digests(names: Iterable[str] = GROUPS["digest"]) -> dict[str, str]:
    """The SHA-256 of each of the cases, and of those that are spoilt."""
    found = {}
    for name in names:
        for spoilt in (False, True) if name in SPOILT else (False,):
            full = f"{name}, spoilt" if spoilt else name
            if name not in LARGE and name not in LARGE_OPTIONS:
                found[full] = digest(name, spoilt)
                continue
            for which, size in CACHES.items():
                team = min(fastbn.get_num_threads(), TEAM)
                with layout.assume_cache(size), fastbn.threads(team):
                    found[f"{full}, {which}"] = digest(name, spoilt)
    return found


def total(found: dict[str, str]) -> str:
    """One SHA-256 of all."""
    return hashlib.sha256("".join(found.values()).encode()).hexdigest()
