"""Random problems against the oracle, for as long as is asked.

``python -m pytest tests/whole/test_fuzz.py --fuzz-seconds 600`` searches for ten minutes. A failure
names its case; ``--fuzz-seed CASE --fuzz-seconds 0`` makes that one alone.
"""

import time
from contextlib import nullcontext

import numpy as np
import pytest
from agreement import Oracle, compute_eps
from data import LAYOUTS

import fastbn

DTYPES = ["f4", "f4", "f8", "f8", "f2", "i1", "i4", "i8", "u2", "u8", "?"]


def random_shape(rng):
    """Mostly small; now and then long rows, many channels, or enough for a team of threads."""
    kind = rng.integers(8)
    if kind == 0:
        shape = rng.integers(1, [400, 300])
    elif kind == 1:
        shape = [rng.integers(1, 5), rng.integers(1, 9), rng.integers(100, 6000)]
    elif kind == 2:
        shape = [rng.integers(1, 40), rng.integers(1, 70), *rng.integers(1, 9, 2)]
    elif kind == 3:
        shape = [rng.integers(2, 12), rng.integers(1, 20), *rng.integers(15, 40, 2)]
    else:
        shape = rng.integers(1, 9, rng.integers(2, 6))
    return tuple(int(i) for i in shape)


def in_memory(rng, a):
    """The same values, stored in some way."""
    for name in rng.choice(sorted(LAYOUTS), rng.integers(0, 3)):
        a = LAYOUTS[name](a)
    if rng.random() < 0.1 and a.size:
        axis = rng.integers(a.ndim)
        a = np.broadcast_to(np.take(a, [0], axis), a.shape)
    return a


def random_values(rng, shape, axis, dtype):
    """Normals of some scale, each channel around an offset of up to 1e6 deviations."""
    per_channel = [shape[axis] if i == axis else 1 for i in range(len(shape))]
    x = rng.standard_normal(shape)
    if dtype.kind in "iub":
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        span = min(float(high), 10 ** rng.uniform(0, 19))
        return np.clip(x * span, max(low, -span), np.nextafter(span, 0)).astype(dtype)
    limits = {2: (-2, 2), 4: (-40, 34), 8: (-140, 140)}[dtype.itemsize]
    scale = 10 ** (rng.uniform(*limits) if rng.random() < 0.3 else rng.uniform(-1, 1))
    spread = 10 ** rng.uniform(-1, 1, per_channel)
    most = min(6, np.log10(np.finfo(dtype).max) / 2 - np.log10(scale))
    offset = 10 ** rng.uniform(-2, max(most, -1), per_channel) if rng.random() < 0.6 else 0.0
    x = scale * spread * (x + offset * rng.choice([-1, 1], per_channel))
    if rng.random() < 0.15:  # constant channels
        x = np.where(rng.random(per_channel) < 0.5, np.take(x, [0], 0)[..., :1], x)
    with np.errstate(over="ignore", under="ignore"):
        return np.clip(x, -6e4, 6e4).astype(dtype) if dtype.itemsize == 2 else x.astype(dtype)


def poison(rng, x, dy, axis):
    """NaN or infinity somewhere in some channels; returns which."""
    channels = x.shape[axis]
    if x.dtype.kind != "f" or x.size == 0 or rng.random() > 0.2:
        return np.array([], int)
    chosen = rng.choice(channels, rng.integers(1, channels + 1), replace=False)
    for c in chosen:
        a = dy if rng.random() < 0.2 else x
        line = np.moveaxis(a, axis, 0)[c]
        line[tuple(rng.integers(line.shape))] = rng.choice([np.nan, np.inf, -np.inf])
    return chosen


def target(rng, x, dtype):
    """An array to write into, or None."""
    if rng.random() < 0.5:
        return None
    out = np.zeros(x.shape, dtype)
    for name in rng.choice(["contiguous", "channels_last", "fortran", "strided", "reversed"], 1):
        out = LAYOUTS[name](out)
    return out


def fits(x, dy, axis):
    """Whether float32 holds gradients without eps, and 1 / std: see docs/reliability.md."""
    with np.errstate(all="ignore"):
        values = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1).astype(np.float64)
        std = values.std(axis=1)
        largest = np.abs(dy[np.isfinite(dy)]).max(initial=1)
    return not (std[std > 0] < 1e-36 * largest).any()


def case(seed):
    """One random problem, through every function."""
    rng = np.random.default_rng(seed)
    shape, dtype = random_shape(rng), np.dtype(rng.choice(DTYPES))
    axis = int(rng.integers(-len(shape), len(shape)))
    channels = shape[axis]
    if np.prod(shape) // channels < 2:
        grow = (axis + 1) % len(shape) if len(shape) > 1 else 0
        shape = tuple(n + 1 if i == grow else n for i, n in enumerate(shape))
        channels = shape[axis]
    output = dtype if dtype.kind == "f" else np.dtype(np.float64)
    x = random_values(rng, shape, axis, dtype)
    dy = (rng.standard_normal(shape) * 10 ** rng.uniform(-2, 2)).astype(output)
    skip = poison(rng, x, dy, axis)
    x, dy = in_memory(rng, x), in_memory(rng, dy)
    if skip.size and (0 in x.strides or 0 in dy.strides):
        skip = np.arange(channels)  # the poison may have spread along a broadcast axis
    eps = float(rng.choice([1e-5, 1e-3, 1e-12, 1.0, 0.0])) * float(rng.choice([1, 1, 0.3]))
    if dtype == np.float32 and eps == 0.0 and not fits(x, dy, axis):
        eps = 1e-12
    weight = rng.normal(1, 1, channels).astype(rng.choice(["f4", "f8"]))
    bias = rng.normal(0, 3, channels).astype(rng.choice(["f4", "f8"]))
    weight, bias = (v if rng.random() < 0.8 else None for v in (weight, bias))
    return x, dy, weight, bias, eps, axis, skip, output, rng


def check(seed):
    x, dy, weight, bias, eps, axis, skip, output, rng = case(seed)
    before, gradient = x.copy(), dy.copy()
    oracle = Oracle(x, weight, bias, eps=eps, axis=axis, skip=skip)
    settings = {"eps": eps, "channel_axis": axis}
    one = fastbn.threads(1) if seed % 4 == 0 else nullcontext()
    with one:
        y, saved = fastbn.forward(x, weight, bias, **settings, out=target(rng, x, output))
        stats = fastbn.batch_stats(x, channel_axis=axis)
        grads = fastbn.backward(dy, saved, out=target(rng, x, output))
    oracle.check_stats(stats)
    oracle.check_stats(saved.stats)
    oracle.check_output(y)
    oracle.check_grads(dy, grads)
    sound = np.isfinite(np.moveaxis(x.astype(np.float64), axis, 0)).reshape(len(stats.mean), -1)
    np.testing.assert_array_equal(np.isfinite(stats.mean + stats.m2), sound.all(axis=1))
    lost = np.moveaxis(y, axis, 0)[~sound.all(axis=1)]
    assert np.isnan(lost).all(), "a value of a poisoned channel"

    out = target(rng, x, output)
    oracle.check_output(fastbn.normalize(x, stats, weight, bias, **settings, out=out))
    mean, var = np.zeros(x.shape[axis]), np.ones(x.shape[axis])
    fastbn.batch_norm(x, mean, var, weight, bias, True, 0.5, **settings, out=out)
    n = x.size // x.shape[axis]
    unit = 128 * compute_eps(x.dtype)
    size = np.abs(oracle.mean) + np.sqrt(oracle.var)
    oracle.close("running_mean", mean[oracle.keep], oracle.mean / 2, unit * size)
    expected = (1 + oracle.var * (n / (n - 1))) / 2
    slack = unit * (expected + 1e-15 * oracle.mean**2)
    oracle.close("running_var", var[oracle.keep], expected, slack)

    given = (stats.mean, stats.var())
    fixed = Oracle(x, weight, bias, eps=eps, axis=axis, skip=skip, stats=given)
    fixed.check_output(fastbn.batch_norm(x, *given, weight, bias, **settings, out=out))
    y, saved = fastbn.forward(x, weight, bias, **settings, stats=given)
    fixed.check_output(y)
    fixed.check_grads(dy, fastbn.backward(dy, saved, out=target(rng, x, output)))
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(dy, gradient)


def test_fuzz(request):
    option = request.config.getoption
    first, end = option("--fuzz-seed"), None
    seed = first
    while end is None or time.monotonic() < end:
        try:
            with np.errstate(all="ignore"):
                check(seed)
        except Exception as error:
            x, _, weight, bias, eps, axis, skip, _, _ = case(seed)
            pytest.fail(
                f"case {seed} (--fuzz-seed {seed} --fuzz-seconds 0): {type(error).__name__}: "
                f"{error}\nx {x.dtype} {x.shape} strides {x.strides}, axis {axis}, eps {eps}, "
                f"weight {weight is not None}, bias {bias is not None}, poisoned {skip.tolist()}"
            )
        seed += 1
        end = end or time.monotonic() + option("--fuzz-seconds")  # the first case compiles
    print(f"{seed - first} cases from {first}")
