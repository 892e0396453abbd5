"""One SHA-256 of every kind of call: `python tests/support/digest.py` prints it, and one a case.

The cases reach every walk through memory: whole arrays and slabs, plain and non-temporal stores,
sums in float32 and those that need float64, the functions, the layers and the seed interface.
"""

import hashlib

import numpy as np
from data import LAYOUTS, problem, spoil

import fastbn

# name: shape, channel axis, dtype, how x lies in memory
CASES = {
    "short rows": ((16, 65, 8, 8), 1, "f4", "contiguous"),
    "short rows, double": ((16, 65, 8, 8), 1, "f8", "contiguous"),
    "short rows, large": ((32, 100, 7, 7), 1, "f4", "contiguous"),
    "few channels": ((8, 3, 120, 121), 1, "f4", "contiguous"),
    "one channel": ((1, 1, 300_001), 1, "f8", "contiguous"),
    "long rows": ((3, 2, 40_001), 1, "f4", "contiguous"),
    "last": ((16, 28, 28, 24), -1, "f4", "contiguous"),
    "last, a view": ((16, 24, 28, 28), 1, "f4", "channels_last"),
    "columns": ((5003, 64), 1, "f4", "contiguous"),
    "many columns": ((40, 5001), 1, "f8", "contiguous"),
    "one column": ((70_003, 1), 1, "f4", "contiguous"),
    "three columns": ((30_001, 3), 1, "f4", "contiguous"),
    "columns of short runs": ((90, 50, 7), 1, "f4", "contiguous"),
    "tiles of short runs": ((19, 1400, 3), 1, "f8", "contiguous"),
    "strided": ((16, 24, 28, 28), 1, "f8", "strided"),
    "half, swapped": ((16, 24, 28, 28), 1, "f2", "byteswapped"),
    "integers": ((3, 11, 16, 17, 18), 1, "i4", "contiguous"),
    "reversed": ((4, 3, 5, 6), 1, "f4", "reversed"),
    "two values a channel": ((2, 130), 1, "f4", "contiguous"),
    "three values a channel": ((3, 70), 1, "f8", "contiguous"),
    "few values a channel": ((1, 512, 2, 2), 1, "f4", "contiguous"),
    "four values a channel, 4097 channels": ((2, 4097, 2), 1, "f4", "contiguous"),
}
# Beyond the caches: 64 MB and more, of which slabs or non-temporal stores come.
LARGE = {
    "68 MB": ((16, 64, 128, 130), 1, "f4", "contiguous"),
    "68 MB, last": ((16, 128, 130, 64), -1, "f4", "contiguous"),
    "68 MB, double": ((8, 64, 128, 130), 1, "f8", "contiguous"),
    "68 MB, short rows": ((68, 5000, 7, 7), 1, "f4", "contiguous"),
    "68 MB, rows": ((66_431, 256), 1, "f4", "contiguous"),
    "68 MB, three channels": ((10, 3, 753, 753), 1, "f4", "contiguous"),
}
SPOILT = ["short rows", "long rows", "last", "columns", "columns of short runs", "68 MB"]


def spoil_some(x, axis):
    """An outlier in first place, 1e30, 1e-30, a constant, infinity and NaN, in channels 0 to 5."""
    changes = "outlier", 1e30, 1e-30, "constant", "infinity", "NaN"
    for values, how in zip(np.moveaxis(x, axis, 0), changes, strict=False):
        spoil(values, how)


def functions(x, dy, weight, bias, axis):
    """What the functions give for a batch."""
    channels = x.shape[axis]
    mean, var = np.zeros(channels), np.ones(channels)
    y, saved = fastbn.forward(x, weight, bias, channel_axis=axis)
    yield from (y, *fastbn.backward(dy, saved)[:3], saved.stats.mean, saved.stats.m2)
    yield fastbn.batch_norm(x, mean, var, weight, bias, True, channel_axis=axis)
    yield from (mean, var)
    yield fastbn.batch_norm(x, mean, var, weight, bias, channel_axis=axis)
    yield fastbn.normalize(x, (mean, var), weight, channel_axis=axis)
    _, fixed = fastbn.forward(x, weight, bias, channel_axis=axis, stats=saved.stats, eps=1e-3)
    yield from fastbn.backward(dy, fixed)[:3]
    halves = [fastbn.batch_stats(part, channel_axis=axis) for part in np.array_split(x, 2)]
    whole = fastbn.merge_stats(halves)
    yield from (whole.mean, whole.m2, whole.var(1))


def layer(x, dy, weight, bias, axis):
    """What a layer gives in training, in evaluation and backwards, and its state."""
    bn = fastbn.BatchNorm(x.shape[axis], channel_axis=axis, dtype=weight.dtype)
    bn.weight[...], bn.bias[...] = weight, bias
    for _ in range(2):
        yield bn(x)
        yield bn.backward(dy)
    yield bn.eval()(x)
    yield from (bn.weight_grad, bn.bias_grad, *bn.state_dict().values())


def seed_interface(x, dy, weight, bias, axis):
    """What the seed interface gives for rows, (N, D)."""
    rows = np.ascontiguousarray(np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]))
    grads = np.ascontiguousarray(np.moveaxis(dy, axis, -1).reshape(rows.shape))
    param = {"mode": "train"}
    out, cache = fastbn.batchnorm_forward(rows, weight, bias, param)
    yield from (out, *fastbn.batchnorm_backward(grads, cache))
    yield from (param["running_mean"], param["running_var"])
    param["mode"] = "test"
    yield fastbn.batchnorm_forward(rows, weight, bias, param)[0]


def sha256(arrays):
    """The SHA-256 of some arrays; all NaNs count as one."""
    sha = hashlib.sha256()
    for a in arrays:
        a = np.array(a, order="C")
        if a.dtype.kind == "f":
            a[np.isnan(a)] = np.nan
        sha.update(a)
    return sha.hexdigest()


def digest(name, spoilt=False):
    """The SHA-256 of one case."""
    shape, axis, dtype, memory = (CASES | LARGE)[name]
    seed = [*CASES, *LARGE].index(name)
    x, dy, weight, bias = problem(shape, np.float32, channel_axis=axis, seed=seed, offset=3.0)
    if spoilt:
        spoil_some(x, axis)
    x = LAYOUTS[memory]((4 * x).astype(dtype))
    dy = dy.astype(dtype if dtype[0] == "f" else "f8")
    kinds = (functions,) if name in LARGE else (functions, layer, seed_interface)
    with np.errstate(all="ignore"):
        return sha256(result for kind in kinds for result in kind(x, dy, weight, bias, axis))


def digests(cases):
    """The SHA-256 of each of the cases, and of those that are spoilt."""
    found = {name: digest(name) for name in cases}
    return found | {f"{name}, spoilt": digest(name, True) for name in SPOILT if name in cases}


def total(found):
    """One SHA-256 of all."""
    return hashlib.sha256("".join(found.values()).encode()).hexdigest()


if __name__ == "__main__":
    found = digests(CASES | LARGE)
    for name, sha in found.items():
        print(f"{sha[:16]}  {name}")
    print(f"{total(found)}  {len(found)} cases, {fastbn.get_num_threads()} threads")
