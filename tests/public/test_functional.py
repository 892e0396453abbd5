"""The functions: constants, NaN and empty batches, running statistics, and gradients."""

import numpy as np
import pytest
import reference
from agreement import assert_relative
from data import DTYPES, HALVES, LAYOUTS, normals, problem
from hypothesis import given
from hypothesis import strategies as st

import fastbn


def test_merged_statistics_of_two_workers_normalise_the_whole_batch():
    x, _, weight, bias = problem((50, 4, 3))
    parts = fastbn.batch_stats(x[:13]) + fastbn.batch_stats(x[13:])
    whole, _ = fastbn.forward(x, weight, bias)
    for z, y in ((x[:13], whole[:13]), (x[13:], whole[13:])):
        np.testing.assert_allclose(fastbn.normalize(z, parts, weight, bias), y, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 3), (3, 3, 300), (9, 3, 7)])
@pytest.mark.parametrize("fixed", [False, True])
def test_eps_zero_on_a_constant_channel(shape, dtype, fixed):
    x, dy, weight, bias = problem(shape, dtype)
    x[:, 1] = 0.1
    stats = fastbn.batch_stats(x) if fixed else None
    y, saved = fastbn.forward(x, weight, bias, eps=0.0, stats=stats)
    dx, dweight, dbias = fastbn.backward(dy, saved)[:3]
    np.testing.assert_array_equal(y[:, 1], np.full_like(y[:, 1], bias[1]))
    np.testing.assert_array_equal(dx[:, 1], 0)
    assert dweight[1] == 0
    np.testing.assert_allclose(dbias[1], dy[:, 1].sum(dtype=float), rtol=1e-5)
    np.testing.assert_allclose(y, reference.forward(x, weight, bias, eps=0), rtol=1e-5, atol=1e-5)
    assert np.all(np.isfinite(dx))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 5), (40, 5, 3), (3, 5, 300), (300, 5, 49)])
def test_nonfinite_values_stay_in_their_channel(shape, dtype, bad):
    x, dy, weight, bias = problem(shape, dtype)
    clean, saved = fastbn.forward(x, weight, bias)
    grads = fastbn.backward(dy, saved)
    for place in (0, -1, 17 % shape[0]):
        spoilt = x.copy()
        spoilt[(place, 2, *[-1] * (x.ndim - 2))] = bad
        y, kept = fastbn.forward(spoilt, weight, bias)
        mine = fastbn.backward(dy, kept)
        assert np.all(np.isnan(y[:, 2]))
        assert np.isnan(kept.stats.m2[2])
        assert np.all(np.isnan(mine.dx[:, 2]))
        others = [0, 1, 3, 4]
        np.testing.assert_array_equal(y[:, others], clean[:, others])
        np.testing.assert_array_equal(mine.dx[:, others], grads.dx[:, others])
        np.testing.assert_array_equal(mine.dweight[others], grads.dweight[others])


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 5), (2, 3, 0), (4, 0), (2, 0, 3)])
def test_empty_batches(shape):
    x, c = np.empty(shape, np.float32), shape[1]
    running_mean, running_var = np.full(c, 5.0), np.full(c, 6.0)
    y = fastbn.batch_norm(x, running_mean, running_var, training=True)
    assert y.shape == shape
    assert y.dtype == np.float32
    np.testing.assert_array_equal(running_mean, 5.0)
    np.testing.assert_array_equal(running_var, 6.0)
    y, saved = fastbn.forward(x, np.ones(c), np.zeros(c))
    dx, dweight, dbias = fastbn.backward(x, saved)[:3]
    assert dx.shape == y.shape == shape
    np.testing.assert_array_equal(dweight, np.zeros(c))
    np.testing.assert_array_equal(dbias, np.zeros(c))
    assert fastbn.normalize(x, (np.zeros(c), np.ones(c))).shape == shape


# --- batch_norm's running statistics --------------------------------------------------------------


RUNNING = {
    "float32": lambda a: a.astype(np.float32),
    "float64": lambda a: a.astype(np.float64),
    "float16": lambda a: a.astype(np.float16),
    "longdouble": lambda a: a.astype(np.longdouble),
    "strided": LAYOUTS["strided"],
    "reversed": LAYOUTS["reversed"],
    "byteswapped": LAYOUTS["byteswapped"],
    "misaligned": LAYOUTS["misaligned"],
}


@pytest.mark.parametrize("kind", RUNNING)
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_running_statistics_are_updated_in_place(kind, momentum):
    x, _, weight, bias = problem((20, 4, 3), np.float32)
    mean, var = RUNNING[kind](np.linspace(-1, 1, 4)), RUNNING[kind](np.linspace(1, 2, 4))
    expected = reference.running(mean, var, x, momentum)
    y = fastbn.batch_norm(x, mean, var, weight, bias, True, momentum, 1e-5)
    np.testing.assert_array_equal(y, fastbn.forward(x, weight, bias)[0])
    tolerance = max(1e-7, 4 * float(np.finfo(mean.dtype).eps))
    np.testing.assert_allclose(mean.astype(float), expected[0], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(var.astype(float), expected[1], rtol=tolerance)
    y = fastbn.batch_norm(x, mean, var, weight, bias)  # training=False is the default
    stats = mean.astype(float), var.astype(float)
    np.testing.assert_allclose(y, reference.forward(x, weight, bias, stats=stats), atol=1e-5)


def test_training_with_one_running_array_or_none():
    x, _, weight, bias = problem((20, 4, 3))
    y = fastbn.batch_norm(x, weight=weight, bias=bias, training=True)
    np.testing.assert_array_equal(y, fastbn.forward(x, weight, bias)[0])
    mean, var = np.zeros(4), np.ones(4)
    expected = reference.running(mean, var, x, 0.1)
    fastbn.batch_norm(x, mean, None, training=True)
    fastbn.batch_norm(x, None, var, training=True)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(var, expected[1], rtol=1e-12)


# --- gradients, and what is kept for them ---------------------------------------------------------


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize(
    ("shape", "axis"), [((7, 3), 1), ((4, 2, 5), 1), ((3, 2, 2, 3), 1), ((3, 2, 3, 2), -1)]
)
def test_gradients_by_finite_differences(shape, axis, fixed):
    x, dy, weight, bias = problem(shape, channel_axis=axis)
    stats = (weight * 0.1, weight**2 + 0.5) if fixed else None

    def loss(x, weight, bias):
        y, _ = fastbn.forward(x, weight, bias, channel_axis=axis, stats=stats)
        return float(np.sum(y * dy))

    _, saved = fastbn.forward(x, weight, bias, channel_axis=axis, stats=stats)
    grads = fastbn.backward(dy, saved)
    assert_relative(grads.dx, reference.numeric_gradient(lambda a: loss(a, weight, bias), x))
    assert_relative(grads.dweight, reference.numeric_gradient(lambda a: loss(x, a, bias), weight))
    assert_relative(grads.dbias, reference.numeric_gradient(lambda a: loss(x, weight, a), bias))


def test_eps_is_the_same_in_both_directions():
    x, dy, weight, bias = problem((30, 3))
    x *= 0.01  # eps weighs as much as the variance
    _, saved = fastbn.forward(x, weight, bias, eps=1e-3)
    expected = reference.backward(dy, x, weight, eps=1e-3)[:3]
    for mine, truth in zip(fastbn.backward(dy, saved)[:3], expected, strict=True):
        np.testing.assert_allclose(mine, truth, rtol=1e-10, atol=1e-12)


def test_backward_names_and_order():
    x, dy, weight, bias = problem((6, 3))
    _, saved = fastbn.forward(x, weight, bias)
    grads = fastbn.backward(dy, saved)
    dx, dweight, dbias = grads[:3]
    assert dx is grads.dx
    assert dweight is grads.dweight
    assert dbias is grads.dbias
    assert dx.shape == x.shape
    assert dweight.shape == dbias.shape == (3,)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 6, 9), (2, 3, 700), (300, 5)])
@pytest.mark.parametrize("needs", [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)])
def test_backward_computes_what_is_needed(shape, dtype, needs):
    x, dy, weight, bias = problem(shape, dtype)
    _, saved = fastbn.forward(x, weight, bias)
    everything = fastbn.backward(dy, saved)
    some = fastbn.backward(dy, saved, needs=tuple(map(bool, needs)))
    for wanted, one, two in zip(needs, some[:3], everything[:3], strict=True):
        if wanted:
            np.testing.assert_array_equal(one, two)
        else:
            assert one is None


@pytest.mark.parametrize("stats", [None, (np.zeros(3), np.ones(3))])
def test_backward_without_parameters(stats):
    x, dy, _, _ = problem((5, 3, 7))
    for weight, bias in ((None, None), (np.full(3, 2.0), None), (None, np.ones(3))):
        y, saved = fastbn.forward(x, weight, bias, stats=stats)
        np.testing.assert_allclose(y, reference.forward(x, weight, bias, stats=stats), atol=1e-13)
        expected = reference.backward(dy, x, weight, stats=stats)
        np.testing.assert_allclose(fastbn.backward(dy, saved).dx, expected[0], atol=1e-13)


@given(st.integers(0, 9), st.sampled_from(DTYPES))
def test_backward_twice_gives_the_same(seed, dtype):
    x, dy, weight, bias = problem((12, 3, 8), dtype, seed=seed)
    _, saved = fastbn.forward(x, weight, bias)
    first = fastbn.backward(dy, saved)
    for one, two in zip(first[:3], fastbn.backward(dy, saved)[:3], strict=True):
        np.testing.assert_array_equal(one, two)


def test_saved_stats_are_the_ones_used():
    x, _, weight, bias = problem((20, 3))
    _, saved = fastbn.forward(x, weight, bias)
    batch = fastbn.batch_stats(x)
    assert saved.stats.count == batch.count == 20
    np.testing.assert_array_equal(saved.stats.mean, batch.mean)
    np.testing.assert_array_equal(saved.stats.m2, batch.m2)
    _, kept = fastbn.forward(x, stats=batch)
    assert kept.stats.count == 20
    np.testing.assert_array_equal(kept.stats.mean, batch.mean)
    np.testing.assert_array_equal(kept.stats.m2, batch.m2)
    _, pair = fastbn.forward(x, stats=([0, 1, 2], [4, 9, 16]))
    assert pair.stats.count == 1
    np.testing.assert_array_equal(pair.stats.mean, [0, 1, 2])
    np.testing.assert_array_equal(pair.stats.m2, [4, 9, 16])


def test_fixed_statistics_accept_one_value_a_channel():
    x = normals((1, 3, 1))
    y, saved = fastbn.forward(x, stats=(np.zeros(3), np.full(3, 4.0)), eps=0.0)
    np.testing.assert_array_equal(y, x / 2)
    np.testing.assert_array_equal(fastbn.backward(x, saved).dx, x / 2)


def test_parameter_gradients_have_the_datas_precision():
    for dtype, expected in ((np.float32, np.float32), (np.float64, np.float64)):
        x, dy, _, _ = problem((9, 3), dtype)
        _, saved = fastbn.forward(x, np.ones(3), np.zeros(3, np.float32))
        _, dweight, dbias = fastbn.backward(dy, saved)[:3]
        assert dweight.dtype == dbias.dtype == expected


# --- the inverse ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0.0, 10.0, 1e6])
def test_denormalize_is_the_inverse(offset, dtype, layout):
    """Where x is -mean, differences are 2 * mean, and what `normalize` rounds is up to 2 ulp."""
    x, _, weight, bias = problem((8, 5, 30), dtype, offset=offset)
    x = LAYOUTS[layout](x)
    stats = fastbn.batch_stats(x)
    # A bias is added to y, which is then rounded to the bias's digits.
    for parameters in ((), (weight,), (weight, bias))[: 3 if offset else 2]:
        y = fastbn.normalize(x, stats, *parameters)
        again = fastbn.denormalize(y, stats, *parameters)
        assert again.dtype == y.dtype
        ulp = np.finfo(dtype).eps * np.maximum(abs(x), abs(stats.mean)[:, None])
        assert np.all(abs(again - x) <= (2 if offset else 3) * ulp)


def test_denormalize_by_the_formula():
    y, _, weight, bias = problem((6, 3, 4))
    mean, var = normals(3, seed=5), normals(3, seed=6) ** 2
    for stats in ((mean, var), fastbn.Stats(4, mean, 4 * var)):
        found = fastbn.denormalize(y, stats, weight, bias, eps=0.1)
        scale = (np.sqrt(var + 0.1) / weight)[:, None]
        np.testing.assert_allclose(found, (y - bias[:, None]) * scale + mean[:, None], atol=1e-13)
    out = y.copy()
    assert fastbn.denormalize(out, (mean, var), weight, bias, eps=0.1, out=out) is out
    np.testing.assert_array_equal(out, found)


def test_denormalize_of_a_constant_channel_is_its_mean():
    mean = np.array([5.0, -1.0])
    y = fastbn.normalize(np.full((3, 2), 5.0), (mean, np.zeros(2)), eps=0.0)
    np.testing.assert_array_equal(fastbn.denormalize(y, (mean, np.zeros(2)), eps=0.0), [mean] * 3)


@pytest.mark.parametrize("dtype", HALVES)
def test_denormalize_in_16_bits(dtype):
    y = normals((6, 3, 40)).astype(dtype)
    found = fastbn.denormalize(y, (np.arange(3.0), np.ones(3)), eps=0.0)
    assert found.dtype == dtype
    expected = (y.astype(np.float32) + np.arange(3, dtype=np.float32)[:, None]).astype(dtype)
    np.testing.assert_array_equal(found, expected)
