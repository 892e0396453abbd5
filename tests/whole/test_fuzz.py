"""Random problems against the oracle, for as long as is asked.

``python -m pytest tests/whole/test_fuzz.py --fuzz-seconds 600`` searches for ten minutes. A failure
names its case; ``--fuzz-seed CASE --fuzz-seconds 0`` makes that one alone.
"""

import time
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import reference
from agreement import Oracle, compute_eps
from data import HALVES, LAYOUTS

import fastbn

INTEGERS = [np.dtype(name) for name in ("i1", "i4", "i8", "u2", "u8", "?")]
FLOATS = [np.dtype(name) for name in ("f4", "f8")]
DTYPES = [*FLOATS, *FLOATS, *HALVES, *INTEGERS]
LARGEST = {"float16": 6e4, "bfloat16": 3e38, "float32": 3e38, "float64": 1e308}


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


def pick(rng, values):
    """One of them; `rng.choice` would make an array of dtypes."""
    return values[rng.integers(len(values))]


def in_memory(rng, a):
    """The same values, stored in some way."""
    for name in rng.choice(sorted(LAYOUTS), rng.integers(0, 3)):
        a = LAYOUTS[name](a)
    return a


def repeated(rng, a):
    """Now and then the same entries all along an axis, none of which take memory."""
    if rng.random() < 0.9 or not a.size:
        return a
    axis = rng.integers(a.ndim)
    return np.broadcast_to(np.take(a, [0], axis), a.shape)


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
    most = min(6, np.log10(LARGEST[dtype.name]) / 2 - np.log10(scale))
    offset = 10 ** rng.uniform(-2, max(most, -1), per_channel) if rng.random() < 0.6 else 0.0
    x = scale * spread * (x + offset * rng.choice([-1, 1], per_channel))
    if rng.random() < 0.15:  # constant channels
        x = np.where(rng.random(per_channel) < 0.5, np.take(x, [0], 0)[..., :1], x)
    with np.errstate(over="ignore", under="ignore"):
        return np.clip(x, -6e4, 6e4).astype(dtype) if dtype in HALVES else x.astype(dtype)


def poison(rng, x, dy, axis):
    """NaN or infinity somewhere in some channels; returns which."""
    channels = x.shape[axis]
    if x.dtype in INTEGERS or x.size == 0 or rng.random() > 0.2:
        return np.array([], int)
    chosen = rng.choice(channels, rng.integers(1, channels + 1), replace=False)
    for c in chosen:
        a = dy if rng.random() < 0.2 else x
        line = np.moveaxis(a, axis, 0)[c]
        line[tuple(rng.integers(line.shape))] = rng.choice([np.nan, np.inf, -np.inf])
    return chosen


def random_weights(rng, shape, axis):
    """None, or weights of some kind, with or without the channel axis, some of one for many."""
    if rng.random() < 0.5:
        return None
    sides = [1 if i == axis % len(shape) or rng.random() < 0.2 else n for i, n in enumerate(shape)]
    kind = rng.integers(4)
    if kind == 0:
        weights = rng.random(sides) < rng.random()
    elif kind == 1:
        weights = rng.integers(0, 5, sides).astype(pick(rng, [*FLOATS, *INTEGERS[:-1]]))
    else:
        weights = (rng.random(sides) * 10 ** rng.uniform(-3, 3)).astype(pick(rng, FLOATS))
        weights *= rng.random(sides) < 0.8
    if kind == 3 and rng.random() < 0.3:
        weights = np.zeros_like(weights)
    return in_memory(rng, weights if rng.random() < 0.5 else np.squeeze(weights, axis))


def hide(rng, x, dy, axis, weights):
    """NaN or infinity where there is no weight, and no gradient there; returns whether."""
    if weights is None or x.dtype in INTEGERS or rng.random() < 0.5:
        return False
    unread = reference.shared_weights(weights, x, axis) == 0
    unread &= rng.random(unread.size) < 0.5
    for a, value in ((x, rng.choice([np.nan, np.inf, -np.inf])), (dy, 0)):
        moved = np.moveaxis(a, axis, 0)
        moved[:, unread.reshape(moved.shape[1:])] = value
    return bool(unread.any())


def random_options(rng, shape, output):
    """A residual and an activation, each as likely as not."""
    options = {"activation": pick(rng, [None, None, "relu", "leaky_relu"])}
    if options["activation"] == "leaky_relu":
        options["negative_slope"] = pick(rng, [0.01, 0.0, 0.3, 2.0])
    if rng.random() < 0.5:
        residual = 2 * rng.standard_normal(shape)
        dtype = output if rng.random() < 0.7 else pick(rng, [*FLOATS, *HALVES])
        options["residual"] = repeated(rng, in_memory(rng, residual.astype(dtype)))
    return options


def target(rng, x, dtype):
    """An array to write into, or None."""
    if rng.random() < 0.5:
        return None
    out = np.zeros(x.shape, dtype)
    for name in rng.choice(["contiguous", "channels_last", "fortran", "strided", "reversed"], 1):
        out = LAYOUTS[name](out)
    return out


def fits(x, dy, axis, weights):
    """Whether float32 holds gradients without eps, and 1 / std: see docs/reliability.md."""
    with np.errstate(all="ignore"):
        std = np.sqrt(reference.statistics(x, axis, weights)[1])
        largest = np.abs(dy[np.isfinite(dy)]).max(initial=1)
    return not (std[std > 0] < 1e-36 * largest).any()


def parameter(rng, mean, deviation, channels):
    """Weight or bias, or None."""
    vector = rng.normal(mean, deviation, channels).astype(pick(rng, FLOATS))
    return vector if rng.random() < 0.8 else None


def case(seed):
    """One random problem, for every function."""
    rng = np.random.default_rng(seed)
    shape, dtype = random_shape(rng), pick(rng, DTYPES)
    axis = int(rng.integers(-len(shape), len(shape)))
    channels = shape[axis]
    if np.prod(shape) // channels < 2:
        grow = (axis + 1) % len(shape) if len(shape) > 1 else 0
        shape = tuple(n + 1 if i == grow else n for i, n in enumerate(shape))
        channels = shape[axis]
    output = np.dtype(np.float64) if dtype in INTEGERS else dtype
    x = random_values(rng, shape, axis, dtype)
    gradient = output if rng.random() < 0.8 else pick(rng, [*FLOATS, *HALVES])
    dy = (rng.standard_normal(shape) * 10 ** rng.uniform(-2, 2)).astype(gradient)
    weights = random_weights(rng, shape, axis)
    hidden = hide(rng, x, dy, axis, weights)
    skip = poison(rng, x, dy, axis)
    x, dy = repeated(rng, in_memory(rng, x)), repeated(rng, dy)
    if (skip.size or hidden) and (0 in x.strides or 0 in dy.strides):
        skip = np.arange(channels)  # the poison may have spread along a broadcast axis
    eps = float(rng.choice([1e-5, 1e-3, 1e-12, 1.0, 0.0])) * float(rng.choice([1, 1, 0.3]))
    if compute_eps(output) > 1e-10 and eps == 0.0 and not fits(x, dy, axis, weights):
        eps = 1e-12
    weight, bias = parameter(rng, 1, 1, channels), parameter(rng, 0, 3, channels)
    options = random_options(rng, shape, output)
    oracle = Oracle(x, weight, bias, eps=eps, axis=axis, skip=skip, weights=weights, **options)
    dy = in_memory(rng, oracle.sure(dy))
    return SimpleNamespace(
        x=x, dy=dy, weight=weight, bias=bias, eps=eps, axis=axis, channels=channels, output=output,
        weights=weights, options=options, oracle=oracle, skip=skip, rng=rng,
    )  # fmt: skip


def check(seed):
    c = case(seed)
    read = {"x": c.x, "dy": c.dy, "weights": c.weights, "residual": c.options.get("residual")}
    before = {name: a.tobytes() for name, a in read.items() if a is not None}
    with fastbn.threads(1) if seed % 4 == 0 else nullcontext():
        stats = check_batch(c)
    check_running(c, stats)
    check_fixed(c, stats)
    for name, content in before.items():
        assert read[name].tobytes() == content, f"{name} was written"


def check_batch(c):
    """Statistics, output and gradients of a batch; what is not finite is where it should be."""
    settings = {"eps": c.eps, "channel_axis": c.axis, "weights": c.weights, **c.options}
    y, saved = fastbn.forward(c.x, c.weight, c.bias, **settings, out=target(c.rng, c.x, c.output))
    stats = fastbn.batch_stats(c.x, channel_axis=c.axis, weights=c.weights)
    grads = fastbn.backward(c.dy, saved, out=target(c.rng, c.x, c.output))
    c.oracle.check_stats(stats)
    c.oracle.check_stats(saved.stats)
    c.oracle.check_output(y)
    c.oracle.check_grads(c.dy, grads)
    counted = reference.shared_weights(c.weights, c.x, c.axis) > 0
    sound = (np.isfinite(reference.by_channel(c.x, c.axis)) | ~counted).all(axis=1)
    np.testing.assert_array_equal(np.isfinite(stats.mean + stats.m2), sound)
    lost = np.moveaxis(y, c.axis, 0)[~sound].astype(np.float64)
    assert np.isnan(lost).all(), "a value of a poisoned channel"
    return stats


def check_running(c, stats):
    """The running statistics, of `batch_norm` where it may be asked."""
    mean, var = np.zeros(c.channels), np.ones(c.channels)
    if c.weights is None:
        parameters = {"weight": c.weight, "bias": c.bias, "eps": c.eps, "channel_axis": c.axis}
        fastbn.batch_norm(c.x, mean, var, training=True, momentum=0.5, **parameters)
    else:
        fastbn.update_running_stats(mean, var, stats, 0.5)
    keep, unit = c.oracle.keep, 128 * compute_eps(c.x.dtype)
    old = np.zeros(len(keep)), np.ones(len(keep))
    expected = reference.running(*old, c.oracle.x, 0.5, channel_axis=c.axis, weights=c.weights)
    size = np.abs(c.oracle.mean) + np.sqrt(c.oracle.var)
    c.oracle.close("running_mean", mean[keep], expected[0], unit * size)
    slack = unit * (expected[1] + 1e-15 * c.oracle.mean**2)
    c.oracle.close("running_var", var[keep], expected[1], slack)


def check_fixed(c, stats):
    """Output and gradients with given statistics, to which weights mean nothing."""
    given = stats.mean, stats.m2 / max(stats.count, 1e-300)
    unsound = ~np.isfinite(reference.by_channel(c.x, c.axis)).all(axis=1)
    skip = np.union1d(c.skip, np.flatnonzero(unsound))
    settings = {"eps": c.eps, "axis": c.axis, "skip": skip, "stats": given}
    plain = Oracle(c.x, c.weight, c.bias, **settings)
    full = Oracle(c.x, c.weight, c.bias, **settings, **c.options)
    settings = {"eps": c.eps, "channel_axis": c.axis}
    out = target(c.rng, c.x, c.output)
    plain.check_output(fastbn.batch_norm(c.x, *given, c.weight, c.bias, **settings, out=out))
    settings |= c.options
    full.check_output(fastbn.normalize(c.x, given, c.weight, c.bias, **settings, out=out))
    y, saved = fastbn.forward(c.x, c.weight, c.bias, **settings, stats=given, weights=c.weights)
    full.check_output(y)
    dy = full.sure(c.dy)
    full.check_grads(dy, fastbn.backward(dy, saved, out=target(c.rng, c.x, c.output)))


def test_fuzz(request):
    option = request.config.getoption
    first, end = option("--fuzz-seed"), None
    seed = first
    while end is None or time.monotonic() < end:
        try:
            with np.errstate(all="ignore"):
                check(seed)
        except Exception as error:
            with np.errstate(all="ignore"):
                c = case(seed)
            kinds = {"weight": c.weight, "bias": c.bias, "weights": c.weights, **c.options}
            given = [f"{k} {getattr(v, 'dtype', v)}" for k, v in kinds.items() if v is not None]
            pytest.fail(
                f"case {seed} (--fuzz-seed {seed} --fuzz-seconds 0): {type(error).__name__}: "
                f"{error}\nx {c.x.dtype} {c.x.shape} strides {c.x.strides}, axis {c.axis}, "
                f"eps {c.eps}, dy {c.dy.dtype}, {', '.join(given)}, poisoned {c.skip.tolist()}"
            )
        seed += 1
        end = end or time.monotonic() + option("--fuzz-seconds")  # the first case compiles
    print(f"{seed - first} cases from {first}")
