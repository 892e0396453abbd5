"""The last digit, against exact fractions: offset ladder, outliers, constants, extreme scales."""

from functools import cache

import numpy as np
import options
import pytest
from agreement import (
    assert_outputs,
    assert_relative,
    assert_statistics,
    mean_ulps,
    output_ulps,
    var_ulps,
)
from data import DTYPES, LAYOUTS, channels_last, exact, ladder, normals, problem
from process import run_to_end
from reference import (
    by_channel,
    exact_backward,
    exact_forward,
    exact_statistics,
    shared_weights,
)
from reference import forward as oracle
from shapes import EXACT

import fastbn

LADDER = [(np.float32, o) for o in (0, 1, 1e2, 1e4, 1e6)]
LADDER += [(np.float64, o) for o in (0, 1, 1e2, 1e4, 1e6, 1e9)]


@pytest.mark.parametrize("case", EXACT)
@pytest.mark.parametrize(("dtype", "offset"), LADDER)
def test_ladder_forward(case, dtype, offset):
    shape, axis, memory = EXACT[case]
    x = LAYOUTS[memory](ladder(shape, dtype, offset, channel_axis=axis))
    y, saved = fastbn.forward(x, eps=0.0, channel_axis=axis)
    rows = by_channel(x, axis)
    truth = [exact_statistics(values) for values in rows]
    assert_statistics(saved.stats, truth, dtype)
    assert_statistics(fastbn.batch_stats(x, channel_axis=axis), truth, dtype)
    expected = np.stack([exact_forward(values) for values in rows])
    assert_outputs(by_channel(y, axis), expected, dtype, output_ulps(dtype, offset))
    fixed = fastbn.normalize(x, saved.stats, eps=0.0, channel_axis=axis)
    assert_outputs(by_channel(fixed, axis), expected, dtype, output_ulps(dtype, offset))


@pytest.mark.parametrize("case", EXACT)
@pytest.mark.parametrize(("dtype", "offset"), LADDER)
def test_ladder_backward(case, dtype, offset):
    shape, axis, memory = EXACT[case]
    x = LAYOUTS[memory](ladder(shape, dtype, offset, channel_axis=axis))
    dy = LAYOUTS[memory](normals(shape, dtype, seed=1))
    weight = np.linspace(0.5, 2.0, shape[axis]).astype(dtype)
    _, saved = fastbn.forward(x, weight, channel_axis=axis)
    grads = fastbn.backward(dy, saved)
    exacts = [
        exact_backward(g, values, float(w), 1e-5)
        for g, values, w in zip(by_channel(dy, axis), by_channel(x, axis), weight, strict=True)
    ]
    # float64's own bound: what the outputs may be off, through a mean of |dy * xhat| below 1
    relative = 1e-5 if dtype == np.float32 else 4e-16 * output_ulps(dtype, offset)
    got = by_channel(grads.dx, axis), grads.dweight, grads.dbias
    for mine, truth in zip(got, map(np.array, zip(*exacts, strict=True)), strict=True):
        assert_relative(mine, truth, relative)


WEIGHTED = ["long rows", "short rows", "NHWC", "N D", "N D wide"]


@pytest.mark.parametrize("kind", options.WEIGHTS)
@pytest.mark.parametrize("case", WEIGHTED)
@pytest.mark.parametrize(("dtype", "offset"), LADDER)
def test_ladder_with_weights(case, dtype, offset, kind):
    """Weights that float32 holds exactly: no digit is lost to them."""
    shape, axis, memory = EXACT[case]
    x = LAYOUTS[memory](ladder(shape, dtype, offset, channel_axis=axis))
    dy = LAYOUTS[memory](normals(shape, dtype, seed=1))
    weights = options.WEIGHTS[kind](np.delete(shape, axis)).astype(np.float32)
    y, saved = fastbn.forward(x, eps=0.0, channel_axis=axis, weights=weights)
    rows = by_channel(x, axis)
    w = shared_weights(weights, x, axis)
    truth = [exact_statistics(values, w) for values in rows]
    assert_statistics(saved.stats, truth, dtype, 4)
    assert_statistics(fastbn.batch_stats(x, channel_axis=axis, weights=weights), truth, dtype, 4)
    expected = np.stack([exact_forward(values, weights=w) for values in rows])
    assert_outputs(by_channel(y, axis), expected, dtype, output_ulps(dtype, offset))
    grads = fastbn.backward(dy, saved)
    gradients = zip(by_channel(dy, axis), rows, strict=True)
    exacts = [exact_backward(g, values, weights=w) for g, values in gradients]
    relative = 1e-5 if dtype == np.float32 else 4e-16 * output_ulps(dtype, offset)
    got = by_channel(grads.dx, axis), grads.dweight, grads.dbias
    for mine, wanted in zip(got, map(np.array, zip(*exacts, strict=True)), strict=True):
        assert_relative(mine, wanted, relative)


@cache
def outlier_truth(dtype):
    values = normals(10**6, dtype, seed=5)
    values[-1] = 1e6
    return values, exact_statistics(values), exact_forward(values, which=slice(-1000, None))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [0, 123_456, 500_000, 999_999])
@pytest.mark.parametrize(
    ("shape", "axis"), [((10, 1, 100_000), 1), ((2500, 1, 20, 20), 1), ((10**6, 1), 1)]
)
def test_an_outlier_costs_no_digit(dtype, place, shape, axis):
    values, truth, expected = outlier_truth(dtype)
    x = np.insert(values[:-1], place, values[-1]).reshape(shape)
    y, saved = fastbn.forward(x, eps=0.0, channel_axis=axis)
    assert_statistics(saved.stats, [truth], dtype)
    mine = np.append(np.delete(y, place)[-999:], y.ravel()[place])
    assert_outputs(mine, expected, dtype, output_ulps(dtype, 0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [0, 1, 40_000, 65_535])
@pytest.mark.parametrize("size", [5.0, 30.0, 200.0, 1e3, 1e6])
def test_an_outlier_of_any_size(dtype, place, size):
    x = normals((2**16, 3), dtype, seed=6)
    x[place, 1] = size
    y, saved = fastbn.forward(x, eps=0.0)
    assert_statistics(saved.stats, [exact_statistics(v) for v in x.T], dtype)
    expected = np.stack([exact_forward(v, which=slice(2000)) for v in x.T])
    assert_outputs(y[:2000].T, expected, dtype, output_ulps(dtype, 0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("away", [1.0, 4.0, -7.5])
@pytest.mark.parametrize("case", EXACT)
def test_first_values_away_from_the_mean(case, away, dtype):
    """A channel's first value makes a poor estimate of its mean when it is an unusual one."""
    shape, axis, memory = EXACT[case]
    x = normals(shape, dtype, seed=3)
    np.moveaxis(x, axis, -1)[(0,) * (x.ndim - 1)] = away
    x = LAYOUTS[memory](x)
    y, saved = fastbn.forward(x, eps=0.0, channel_axis=axis)
    rows = by_channel(x, axis)
    assert_statistics(saved.stats, [exact_statistics(values) for values in rows], dtype)
    expected = np.stack([exact_forward(values) for values in rows])
    assert_outputs(by_channel(y, axis), expected, dtype, output_ulps(dtype, 0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("shape", [(7, 3, 49), (3, 3, 1000), (333, 3), (40_001, 3), (2, 3, 70_001)])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e6 - 0.1, 1e30, 1e-40])
def test_constant_channel(dtype, eps, shape, value):
    x = np.full(shape, value, dtype)
    bias = np.array([0.3, -7.7, 0.0], dtype)
    y, saved = fastbn.forward(x, np.array([1.5, -2.0, 3.0], dtype), bias, eps=eps)
    assert np.all(saved.stats.m2 == 0)
    assert np.all(saved.stats.var() == 0)
    assert np.all(saved.stats.mean == x.flat[0])
    assert np.all(by_channel(y, 1) == bias[:, None])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 2, 1000), (50, 2, 49), (3000, 2)])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-3, 1e20, 1e30])
@pytest.mark.parametrize("offset", [0, 3])
def test_extreme_scales(dtype, shape, scale, offset):
    x = normals(shape, offset=offset) * scale
    x = x.astype(dtype)
    y, saved = fastbn.forward(x, eps=0.0)
    rows = by_channel(x, 1)
    expected = np.stack([exact_forward(values) for values in rows])
    assert_outputs(by_channel(y, 1), expected, dtype, output_ulps(dtype, offset))
    for c, (mean, var) in enumerate(map(exact_statistics, rows)):
        unit = mean_ulps(dtype) * np.finfo(dtype).eps * (abs(float(mean)) + scale)
        assert abs(saved.stats.mean[c] - float(mean)) <= unit
        relative = var_ulps(dtype) * float(np.finfo(dtype).eps)
        assert saved.stats.var()[c] == pytest.approx(float(var), rel=relative, abs=0)
    dx, dweight, _ = fastbn.backward(np.ones_like(x), saved)[:3]
    assert np.all(np.isfinite(dx))
    assert np.all(np.isfinite(dweight))


@pytest.mark.parametrize("offset", [0, 1e3, 1e6, 1e9])
def test_float64_takes_up_what_is_rounded_off_the_mean(offset):
    """Outputs and gradients: a mean near 1e9 is rounded by up to 6e-8."""
    x, dy = offset + normals((400, 1)), normals((400, 1), seed=1)
    y, saved = fastbn.forward(x)
    dx, dweight, _ = fastbn.backward(dy, saved)[:3]
    np.testing.assert_allclose(y[:, 0], exact_forward(x[:, 0], 1e-5), rtol=0, atol=1e-14)
    exact_dx, exact_dweight, _ = exact_backward(dy[:, 0], x[:, 0], eps=1e-5)
    np.testing.assert_allclose(dx[:, 0], exact_dx, rtol=0, atol=1e-14)
    np.testing.assert_allclose(dweight[0], exact_dweight, rtol=1e-13)


def test_float64_far_beyond_float32():
    x = normals((500, 2)) * 1e150
    y, _ = fastbn.forward(x, eps=0.0)
    assert_outputs(y.T, np.stack([exact_forward(v) for v in x.T]), np.float64, 18)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((8, 4, 64), 1), ((4, 3, 2048), 1), ((64, 16, 8, 8), 1), ((16, 8, 8, 32), -1), ((512, 64), 1)],
)
def test_exact_data_has_no_tolerance(dtype, shape, axis):
    x, mean, std = exact(shape, dtype, channel_axis=axis, paired=True)
    y, saved = fastbn.forward(x, eps=0.0, channel_axis=axis)
    np.testing.assert_array_equal(saved.stats.mean, mean)
    np.testing.assert_array_equal(saved.stats.var(), std**2)
    signs = (by_channel(x, axis) - mean[:, None]) / std[:, None]
    np.testing.assert_array_equal(by_channel(y, axis), signs)
    # dy = xhat + 1 lies in the space that batch norm removes: its gradient is zero
    grads = fastbn.backward(y + 1, saved)
    np.testing.assert_array_equal(grads.dx, 0)
    np.testing.assert_array_equal(grads.dweight, saved.stats.count)
    np.testing.assert_array_equal(grads.dbias, saved.stats.count)


@pytest.mark.parametrize("shape", [(6, 5, 49), (4, 3, 1001), (126, 63), (1002, 5), (2, 700, 3)])
def test_exact_data_in_random_order(shape):
    x, mean, std = exact(shape, np.float32)
    y, saved = fastbn.forward(x, eps=0.0)
    np.testing.assert_allclose(saved.stats.mean, mean, rtol=1e-15, atol=1e-15)
    np.testing.assert_allclose(saved.stats.var(), std**2, rtol=1e-14)
    np.testing.assert_array_equal(
        by_channel(y, 1), (by_channel(x, 1) - mean[:, None]) / std[:, None]
    )


@pytest.mark.parametrize("offset", [1e4, 1e6])
def test_layouts_agree_far_from_zero(offset):
    """Where PyTorch's two layouts differ by thousands of units in the last place."""
    x, _, weight, bias = problem((16, 5, 9, 9), np.float32, offset=offset)
    expected = oracle(x, weight, bias)
    for memory in (np.ascontiguousarray, channels_last):
        y, _ = fastbn.forward(memory(x), weight, bias)
        np.testing.assert_allclose(y, expected, rtol=0, atol=4e-6)


OLD_PROCESSOR = """
import numpy as np
from agreement import assert_statistics
from data import ladder
from reference import by_channel, exact_statistics
import fastbn

x = ladder((2, 3, 2500), np.float64, 1e9, channel_axis=1)
truth = [exact_statistics(values) for values in by_channel(x, 1)]
assert_statistics(fastbn.batch_stats(x), truth, np.float64)
"""


def test_long_rows_on_a_processor_with_short_vectors():
    """Fewer lanes make longer sums."""
    run_to_end(OLD_PROCESSOR, NUMBA_CPU_NAME="generic")
