"""forward and backward: gradients against finite differences, and what is kept between the two."""

import numpy as np
import pytest
import reference
from data import DTYPES, normals, problem
from hypothesis import given
from hypothesis import strategies as st

import fastbn


def assert_relative(got, expected, bound=1e-8):
    assert np.max(np.abs(got - expected)) <= bound * np.max(np.abs(expected))


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
    expected = reference.backward(dy, x, weight, eps=1e-3)
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
