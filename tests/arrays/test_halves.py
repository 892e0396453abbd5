"""float16 and bfloat16: stored as 16 bits, computed in float32, rounded once to nearest even."""

import tracemalloc

import numpy as np
import options
import pytest
import reference
from agreement import assert_agreement
from data import HALVES, LAYOUTS, channels_last, normals, order, problem
from reference import by_channel, exact_backward, exact_forward

import fastbn
from fastbn._runtime import memory

FLOAT16, BFLOAT16 = HALVES
SHAPES = [(40, 5), (6, 3, 7), (3, 2, 300), (2, 5, 16, 17), (30, 20, 7, 7), (200, 67), (9, 3, 33)]
DIGITS = {FLOAT16: 10, BFLOAT16: 7}  # behind the first
LARGEST = {FLOAT16: 65504.0, BFLOAT16: 3.3895313892515355e38}

each_half = pytest.mark.parametrize("dtype", HALVES, ids=str)


def halves(shape, dtype, **settings):
    """x, dy, weight, bias of a problem, the first two of 16 bits."""
    x, dy, weight, bias = problem(shape, np.float32, **settings)
    return x.astype(dtype), dy.astype(dtype), weight, bias


def wide(a):
    return a.astype(np.float64)


def ulps(dtype, values):
    """The unit in the last place of values, if they are not below 1/4."""
    return 2.0 ** (np.floor(np.log2(np.maximum(np.abs(values), 0.25))) - DIGITS[dtype])


def assert_rounded(got, exact):
    """Half a unit in the last place from the exact value, and float32's own errors."""
    off = np.abs(wide(got) - exact)
    bound = 0.51 * ulps(got.dtype.newbyteorder("="), exact) + 1e-5
    assert (off <= bound).all(), (off / bound).max()


@each_half
@pytest.mark.parametrize("memory", [np.ascontiguousarray, channels_last])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_are_rounded_once(shape, memory, dtype):
    x, dy, weight, bias = halves(shape, dtype)
    y, saved = fastbn.forward(memory(x), weight, bias)
    grads = fastbn.backward(memory(dy), saved)
    assert y.dtype == grads.dx.dtype == dtype
    assert grads.dweight.dtype == grads.dbias.dtype == np.float32
    assert order(y) == order(grads.dx) == order(memory(x))
    columns = zip(*(by_channel(a, 1) for a in (x, dy, y, grads.dx)), weight, bias, strict=True)
    for values, g, mine, dx, w, b in columns:
        exact = exact_forward(values, 1e-5, weight=float(w), bias=float(b))
        assert_rounded(mine.astype(dtype), exact)
        assert_rounded(dx.astype(dtype), exact_backward(g, values, float(w), 1e-5)[0])
    again = fastbn.normalize(x, saved.stats, weight, bias)
    np.testing.assert_array_equal(wide(again), wide(y))


@each_half
@options.over_options
@pytest.mark.parametrize("shape", [(40, 5), (2, 5, 16, 17), (30, 20, 7, 7)], ids=str)
def test_with_options(shape, weights, activation, residual, dtype):
    x, dy, weight, bias = halves(shape, dtype)
    settings = options.settings(shape, weights, activation, residual, dtype=dtype)
    y, grads, dy = assert_agreement(x, dy, weight, bias, **settings)
    assert_rounded(y, reference.forward(x, weight, bias, **settings))
    assert_rounded(grads.dx, reference.backward(dy, x, weight, bias, **settings).dx)
    if residual:
        assert grads.dresidual.dtype == dtype
        slope = settings.get("negative_slope", 0) if settings.get("activation") else 1
        sloped = (np.float32(slope) * dy.astype(np.float32)).astype(dtype)
        kept = wide(grads.dresidual)
        assert ((kept == wide(dy)) | (kept == wide(sloped))).all()


@each_half
def test_the_sums_are_those_of_float32_data(dtype):
    """To the bit: the same values in 32 bits have the same statistics and sums."""
    for shape in SHAPES:
        x, dy, weight, bias = halves(shape, dtype)
        y, saved = fastbn.forward(x, weight, bias)
        grads = fastbn.backward(dy, saved)
        z, same = fastbn.forward(x.astype(np.float32), weight, bias)
        truth = fastbn.backward(dy.astype(np.float32), same)
        np.testing.assert_array_equal(saved.stats.mean, same.stats.mean)
        np.testing.assert_array_equal(saved.stats.m2, same.stats.m2)
        for one, two in zip(grads[1:3], truth[1:3], strict=True):
            np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(wide(y), wide(z.astype(dtype)))
        np.testing.assert_array_equal(wide(grads.dx), wide(truth.dx.astype(dtype)))


# --- numbers at the ends --------------------------------------------------------------------------


def test_float16_sums_beyond_its_range():
    x = np.where(normals((4, 80, 100, 100)) > 0, 200, -200).astype(np.float16)
    x[:, :, ::2], x[:, :, 1::2] = 200, -200
    for lie in (np.ascontiguousarray, channels_last):
        stats = fastbn.batch_stats(lie(x))
        np.testing.assert_array_equal(stats.mean, 0)
        np.testing.assert_array_equal(stats.var(), 40_000)
        y, _ = fastbn.forward(lie(x))
        np.testing.assert_array_equal(y, x / np.float16(200))


@each_half
def test_every_number_is_read_and_written(dtype):
    """All 65,536 patterns of bits, by statistics that change nothing."""
    words = np.arange(1 << 16, dtype=np.uint16)
    for shape in ((64, 4, 256), (1 << 14, 4)):
        x = words.reshape(shape).view(dtype)
        y = fastbn.normalize(x, (np.zeros(4), np.ones(4)), eps=0.0)
        with np.errstate(invalid="ignore"):  # a signalling NaN
            given, found = wide(x), wide(y)
        np.testing.assert_array_equal(found, given)


@each_half
def test_ties_go_to_even(dtype):
    """x / 2 + 1: halfway between two numbers for every other odd x in units in the last place."""
    unit = 2.0 ** -DIGITS[dtype]
    x = (unit * np.arange(-64, 64)).reshape(32, 4).astype(dtype)
    y = fastbn.normalize(x, (np.zeros(4), np.ones(4)), np.full(4, 0.5), np.ones(4), eps=0.0)
    np.testing.assert_array_equal(
        wide(y), wide((0.5 * wide(x) + 1).astype(np.float32).astype(dtype))
    )
    whole = 0.5 * wide(x) / unit + 1 / unit
    halfway = (whole % 1 == 0.5) & (whole > 1 / unit)
    assert halfway.any()
    assert (wide(y)[halfway] / unit % 2 == 0).all()


@each_half
def test_beyond_the_largest_number_is_infinity(dtype):
    x, _, _, _ = halves((40, 3, 7), dtype)
    weight = np.full(3, 4e4 if dtype == FLOAT16 else 1.5e38, np.float32)
    y, saved = fastbn.forward(x, weight)
    with np.errstate(over="ignore"):
        expected = reference.forward(x, weight)
        near = np.abs(np.abs(expected) / LARGEST[dtype] - 1) < 1e-2
        assert (np.isinf(y) == (np.abs(expected) > LARGEST[dtype]))[~near].all()
    assert np.isinf(y).any()
    assert np.isfinite(y).any()
    assert (np.sign(wide(y)) == np.sign(expected)).all()
    dx = fastbn.backward(np.ones_like(x), saved).dx
    assert not np.isnan(dx).any()


@each_half
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(40, 5), (40, 5, 3), (3, 5, 300), (300, 5, 49)])
def test_nonfinite_values_stay_in_their_channel(shape, bad, dtype):
    x, dy, weight, bias = halves(shape, dtype)
    clean, saved = fastbn.forward(x, weight, bias)
    grads = fastbn.backward(dy, saved)
    x[(1, 2, *[-1] * (x.ndim - 2))] = bad
    y, kept = fastbn.forward(x, weight, bias)
    mine = fastbn.backward(dy, kept)
    assert np.isnan(y[:, 2]).all()
    assert np.isnan(mine.dx[:, 2]).all()
    assert np.isnan(kept.stats.m2[2])
    others = [0, 1, 3, 4]
    np.testing.assert_array_equal(wide(y[:, others]), wide(clean[:, others]))
    np.testing.assert_array_equal(wide(mine.dx[:, others]), wide(grads.dx[:, others]))


@each_half
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_subnormal_values(dtype, scale):
    tiny = 2.0**-24 if dtype == FLOAT16 else 2.0**-133  # the least above 0
    x = (tiny * np.random.default_rng(0).integers(-50, 50, (40, 3, 9))).astype(dtype)
    assert (x != 0).any()
    stats, (mean, var) = fastbn.batch_stats(x), reference.statistics(x)
    np.testing.assert_allclose(stats.mean, mean, rtol=1e-6, atol=1e-3 * tiny)
    np.testing.assert_allclose(stats.var(), var, rtol=1e-5)
    if dtype == FLOAT16:
        y, _ = fastbn.forward(x, eps=0.0)
        assert_rounded(y, reference.forward(x, eps=0.0))
        stats = np.zeros(3), np.ones(3)
        y = fastbn.normalize(x, stats, np.full(3, scale), eps=0.0)
        expected = (wide(x) * scale).astype(np.float32).astype(dtype)
        np.testing.assert_array_equal(wide(y), wide(expected))


@each_half
@pytest.mark.parametrize("value", [0.0, 0.1, -200.0])
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_constant_channels(value, eps, dtype):
    x = np.full((30, 3, 7), value, dtype)
    bias = np.array([0.3, -7.7, 0.0], np.float32)
    y, saved = fastbn.forward(x, np.array([1.5, -2.0, 3.0]), bias, eps=eps)
    np.testing.assert_array_equal(saved.stats.m2, 0)
    np.testing.assert_array_equal(saved.stats.mean, float(x.flat[0]))
    np.testing.assert_array_equal(
        wide(by_channel(y, 1)), wide(bias.astype(dtype))[:, None] + 0 * by_channel(y, 1)
    )


# --- memory ---------------------------------------------------------------------------------------


@each_half
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (37, 21), (2, 3, 400), (70, 3, 18, 19)])
def test_every_layout(shape, layout, dtype):
    x, dy, weight, bias = halves(shape, dtype)
    given, gradient = LAYOUTS[layout](x), LAYOUTS[layout](dy)
    before = given.tobytes(), gradient.tobytes()
    y, saved = fastbn.forward(given, weight, bias)
    dx = fastbn.backward(gradient, saved).dx
    assert y.dtype == dx.dtype == dtype
    assert_rounded(y, reference.forward(x, weight, bias))
    assert_rounded(dx, reference.backward(dy, x, weight).dx)
    assert_agreement(x, dy, weight, bias, lie=LAYOUTS[layout])
    out = LAYOUTS["strided"](np.zeros(shape, dtype))
    assert fastbn.forward(given, weight, bias, out=out)[0] is out
    np.testing.assert_array_equal(wide(out), wide(y))
    assert fastbn.backward(gradient, saved, out=out).dx is out
    np.testing.assert_array_equal(wide(out), wide(dx))
    assert (given.tobytes(), gradient.tobytes()) == before


@each_half
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (300, 65), (2, 3, 40_001)])
def test_in_place(shape, dtype):
    x, dy, weight, bias = halves(shape, dtype)
    y, saved = fastbn.forward(x, weight, bias)
    dx = fastbn.backward(dy, saved).dx
    z, dz = x.copy(), dy.copy()
    assert fastbn.normalize(z, saved.stats, weight, bias, out=z) is z
    assert fastbn.backward(dz, saved, out=dz).dx is dz
    np.testing.assert_array_equal(wide(z), wide(y))
    np.testing.assert_array_equal(wide(dz), wide(dx))


@each_half
@pytest.mark.parametrize("other", ["f2", "bfloat16", "f4", "f8", ">f4", ">f2"])
@pytest.mark.parametrize("shape", [(40, 5), (2, 5, 16, 17)])
def test_dy_and_residual_of_another_dtype(shape, other, dtype):
    x, _, weight, bias = halves(shape, dtype)
    dy, z = (normals(shape, seed=seed).astype(np.dtype(other)) for seed in (5, 6))
    settings = {"residual": z, "activation": "relu"}
    y, grads, dy = assert_agreement(x, dy, weight, bias, **settings)
    assert y.dtype == grads.dx.dtype == grads.dresidual.dtype == dtype
    assert_rounded(y, reference.forward(x, weight, bias, **settings))
    assert_rounded(grads.dx, reference.backward(dy, x, weight, bias, **settings).dx)


@pytest.mark.parametrize("other", HALVES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dy_and_residual_of_16_bits_for_wider_data(dtype, other):
    x, _, weight, bias = problem((6, 5, 7), dtype)
    dy, z = (normals(x.shape, seed=seed).astype(other) for seed in (5, 6))
    y, grads, _ = assert_agreement(x, dy, weight, bias, residual=z)
    assert y.dtype == grads.dx.dtype == grads.dresidual.dtype == dtype


@each_half
def test_a_layer(dtype):
    x, dy, weight, bias = halves((6, 5, 7), dtype)
    bn = fastbn.BatchNorm(5)
    bn.weight[:], bn.bias[:] = weight, bias
    assert_rounded(bn(x), reference.forward(x, weight, bias))
    assert_rounded(bn.backward(dy), reference.backward(dy, x, weight).dx)
    assert bn.weight_grad.dtype == bn.running_mean.dtype == np.float32
    mean, var = reference.running(np.zeros(5), np.ones(5), x, 0.1)
    np.testing.assert_allclose(bn.running_mean, mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(bn.running_var, var, rtol=1e-6)
    bn.eval()
    stats = wide(bn.running_mean), wide(bn.running_var)
    assert_rounded(bn(x), reference.forward(x, weight, bias, stats=stats))


@each_half
@pytest.mark.parametrize("lie", [np.ascontiguousarray, channels_last])
def test_nothing_of_xs_size_is_converted(lie, dtype, monkeypatch):
    monkeypatch.setattr(memory, "_MARKS", False)  # all memory is NumPy's, and none is kept
    monkeypatch.setattr(memory, "limit", lambda: 0)
    memory.vector(memory.MINIMUM)
    x, dy, weight, bias = halves((16, 64, 50, 50), dtype)
    x, dy, z = lie(x), lie(dy), lie(dy)
    out = np.empty_like(x)
    settings = {"residual": z, "activation": "relu"}
    calls = {
        "forward": lambda: fastbn.forward(x, weight, bias, out=out),
        "with options": lambda: fastbn.forward(x, weight, bias, out=out, **settings),
        "normalize": lambda: fastbn.normalize(x, saved.stats, weight, bias, out=out, **settings),
        "statistics": lambda: fastbn.batch_stats(x),
        "backward": lambda: fastbn.backward(dy, saved, out=out),
    }
    _, saved = fastbn.forward(x, weight, bias)
    peaks = {}
    for name, call in calls.items():
        call()  # compiles
        tracemalloc.start()
        call()
        peaks[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert max(peaks.values()) < x.nbytes / 8, peaks
