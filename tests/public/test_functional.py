"""batch_norm and normalize, and what all functions promise: constants, NaN, empty batches."""

import numpy as np
import pytest
import reference
from data import DTYPES, LAYOUTS, problem

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
