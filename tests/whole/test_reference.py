"""The oracle itself: its two ways, the textbook's code and finite differences agree."""

from fractions import Fraction

import numpy as np
import options
import pytest
import reference
from data import normals, problem
from options import over_options
from witness import autograd

from benchmarks import seed


def test_exact_statistics_of_small_numbers():
    assert reference.exact_statistics([1.0, 2.0, 4.0]) == (Fraction(7, 3), Fraction(14, 9))
    mean, var = reference.exact_statistics([1e30, 1e30, -0.0])
    assert mean == Fraction(2, 3) * Fraction(1e30)
    assert var == Fraction(2, 9) * Fraction(1e30) ** 2


def test_exact_is_the_oracle_where_float64_suffices():
    x, dy, weight, _ = problem((40, 3, 5))
    y = reference.forward(x)
    dx, dweight, dbias = reference.backward(dy, x, weight)[:3]
    for c in range(3):
        mine = reference.exact_backward(dy[:, c], x[:, c], weight[c], 1e-5)
        np.testing.assert_allclose(reference.exact_forward(x[:, c], 1e-5), y[:, c].ravel(), 1e-12)
        np.testing.assert_allclose(mine[0], dx[:, c].ravel(), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(mine[1:], (dweight[c], dbias[c]), rtol=1e-12)


def test_exact_outputs_have_zero_mean_and_unit_variance():
    values = normals(999, offset=1e9)
    y = reference.exact_forward(values)
    assert abs(y.mean()) < 1e-15
    assert abs(y.var() - 1) < 1e-14
    np.testing.assert_array_equal(reference.exact_forward(values, which=slice(5, 9)), y[5:9])


def test_gradient_of_the_oracle_by_finite_differences():
    x, dy, weight, bias = problem((4, 2, 3))
    dx = reference.backward(dy, x, weight).dx
    index, h = (1, 1, 2), 1e-5
    step = np.zeros_like(x)
    step[index] = h
    up, down = (reference.forward(z, weight, bias) for z in (x + step, x - step))
    assert abs(((up - down) * dy).sum() / (2 * h) - dx[index]) < 1e-9


# --- weights, residual, activation ---------------------------------------------------------------


def assert_same(one, two):
    """Tuples of arrays of the same bits."""
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@over_options
def test_gradients_with_options_by_finite_differences(weights, activation, residual):
    x, dy, weight, bias = problem((5, 2, 3))
    settings = options.settings(x.shape, weights, activation, residual)
    z = settings.pop("residual")
    z = np.zeros_like(x) if z is None else z

    def loss(x, weight, bias, z):
        return float((dy * reference.forward(x, weight, bias, residual=z, **settings)).sum())

    # nowhere within a step of the differences is there a kink
    pre = reference.forward(x, weight, bias, residual=z, **settings | {"activation": None})
    assert np.abs(pre).min() > 1e-3
    point = [x, weight, bias, z]
    grads = reference.backward(dy, x, weight, bias, residual=z, **settings)
    for i, mine in enumerate(grads):
        expected = reference.numeric_gradient(
            lambda a, i=i: loss(*point[:i], a, *point[i + 1 :]), point[i], 1e-4
        )
        np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-9)


@over_options
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("fixed", [False, True])
def test_oracle_is_what_autograd_finds(weights, activation, residual, axis, fixed):
    x, dy, weight, bias = problem((4, 3, 5, 3), channel_axis=axis)
    settings = options.settings(x.shape, weights, activation, residual, axis=axis)
    settings["stats"] = (0.1 * weight, weight**2 + 0.5) if fixed else None
    y, truth = autograd(dy, x, weight, bias, **settings)
    np.testing.assert_allclose(reference.forward(x, weight, bias, **settings), y, atol=1e-13)
    for mine, theirs in zip(
        reference.backward(dy, x, weight, bias, **settings), truth, strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)


@over_options
def test_exact_with_options_is_the_oracle(weights, activation, residual):
    x, dy, weight, bias = problem((8, 2, 5))
    settings = options.settings(x.shape, weights, activation, residual)
    y = reference.forward(x, weight, bias, **settings)
    grads = reference.backward(dy, x, weight, bias, **settings)
    w, z = settings.pop("weights"), settings.pop("residual")
    mean, var = reference.statistics(x, 1, w)
    del settings["channel_axis"]
    for c in range(2):
        one = settings | {"weights": w, "residual": None if z is None else z[:, c]}
        exact = reference.exact_statistics(x[:, c], w)
        np.testing.assert_allclose([float(s) for s in exact], (mean[c], var[c]), rtol=1e-13)
        one |= {"bias": bias[c]}
        mine = reference.exact_forward(x[:, c], 1e-5, weight=weight[c], **one)
        np.testing.assert_allclose(mine, y[:, c].ravel(), rtol=0, atol=1e-13)
        dx, *sums = reference.exact_backward(dy[:, c], x[:, c], weight[c], 1e-5, **one)
        np.testing.assert_allclose(dx, grads.dx[:, c].ravel(), rtol=0, atol=1e-13)
        np.testing.assert_allclose(sums, (grads.dweight[c], grads.dbias[c]), rtol=1e-12)


def test_integer_weights_are_copies_of_a_sample():
    x, dy, weight, bias = problem((7, 3, 4))
    times = np.array([1, 3, 0, 2, 1, 0, 4])
    many, grad = np.repeat(x, times, axis=0), np.repeat(dy, times, axis=0)
    weights = times[:, None] * np.ones(4)
    for one, two in zip(
        reference.statistics(x, 1, weights), reference.statistics(many), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-13)
    y = reference.forward(x, weight, bias, weights=weights)
    copies = reference.forward(many, weight, bias)
    np.testing.assert_allclose(np.repeat(y, times, axis=0), copies, atol=1e-13)
    # each of the copies has its share of dy, and gives its share of dx
    mine = reference.backward(dy * weights[:, None], x, weight, weights=weights)
    theirs = reference.backward(grad, many, weight)
    np.testing.assert_allclose(mine.dweight, theirs.dweight, rtol=1e-12)
    np.testing.assert_allclose(mine.dbias, theirs.dbias, rtol=1e-12)
    for i, end in enumerate(np.cumsum(times)):
        np.testing.assert_allclose(mine.dx[i], times[i] * theirs.dx[end - 1], atol=1e-12)
    old = np.zeros(3), np.ones(3)
    for one, two in zip(
        reference.running(*old, x, 0.3, weights=weights),
        reference.running(*old, many, 0.3),
        strict=True,
    ):
        np.testing.assert_allclose(one, two, rtol=1e-13)


def test_a_first_value_far_from_the_others_costs_no_digit():
    values = np.array([41143.0, 0, 0, 1, 0, 3, 0, 0.1]) / 3
    weights = np.array([1e-9, 0, 7, 3, 5, 6, 4, 0.1])
    mean, var = reference.statistics(values[:, None], 1, weights)
    exact = reference.exact_statistics(values, weights)
    np.testing.assert_allclose((mean[0], var[0]), [float(s) for s in exact], rtol=4e-16)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_has_no_weight_is_not_read(bad):
    x, dy, weight, bias = problem((6, 3, 5))
    weights = np.ones((6, 5))
    weights[2, 3] = 0.0
    dy[2, :, 3] = 0.0
    clean = reference.backward(dy, x, weight, bias, weights=weights)
    expected = reference.forward(x, weight, bias, weights=weights)
    x[2, :, 3] = bad
    assert_same(reference.backward(dy, x, weight, bias, weights=weights), clean)
    y = reference.forward(x, weight, bias, weights=weights)
    assert not np.isfinite(y[2, :, 3]).any()
    y[2, :, 3] = expected[2, :, 3]
    np.testing.assert_array_equal(y, expected)


def test_no_weight_at_all():
    x, dy, weight, bias = problem((6, 3, 5))
    none, z = np.zeros((6, 5)), normals(x.shape, seed=9)
    settings = {"weights": none, "residual": z, "activation": "relu"}
    y = reference.forward(x, weight, bias, **settings)
    grads = reference.backward(dy, x, weight, bias, **settings)
    side = (1, 3, 1)
    pre = x / np.sqrt(1e-5) * weight.reshape(side) + bias.reshape(side) + z
    np.testing.assert_allclose(y, np.maximum(pre, 0), rtol=1e-12)
    for gradient in grads[:3]:
        np.testing.assert_array_equal(gradient, 0)
    np.testing.assert_array_equal(grads.dresidual, dy * (pre > 0))
    mean, var = reference.running([1.0, 2, 3], [4.0, 5, 6], x, 0.5, weights=none)
    assert (mean.tolist(), var.tolist()) == ([1, 2, 3], [4, 5, 6])


def test_fixed_statistics_take_no_weights():
    x, dy, weight, bias = problem((6, 3, 5))
    stats, weights = (np.zeros(3), np.ones(3)), np.zeros((6, 5))
    settings = {"stats": stats, "weights": weights}
    expected = reference.forward(x, weight, bias, stats=stats)
    np.testing.assert_array_equal(reference.forward(x, weight, bias, **settings), expected)
    assert_same(
        reference.backward(dy, x, weight, bias, **settings),
        reference.backward(dy, x, weight, bias, stats=stats),
    )


# --- the textbook's code -------------------------------------------------------------------------


def test_textbook_is_the_oracle():
    x, dout, gamma, beta = problem((30, 4))
    param = {"mode": "train"}
    out, cache = seed.forward(x, gamma, beta, param)
    np.testing.assert_allclose(out, reference.forward(x, gamma, beta), rtol=1e-12, atol=1e-13)
    theirs = reference.backward(dout, x, gamma)[:3]
    for mine, other in zip(seed.backward(dout, cache), theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-11, atol=1e-13)
    mean, var = reference.running(np.zeros(4), np.zeros(4), x, 0.1, ddof=0)
    np.testing.assert_allclose(param["running_mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(param["running_var"], var, rtol=1e-12)
    param["mode"] = "test"
    out, cache = seed.forward(x, gamma, beta, param)
    assert cache is None
    expected = reference.forward(x, gamma, beta, stats=(mean, var))
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-13)
