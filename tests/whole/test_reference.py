"""The oracle itself: its two ways, the textbook's code and finite differences agree."""

from fractions import Fraction

import numpy as np
import reference
from data import normals, problem

from benchmarks import seed


def test_exact_statistics_of_small_numbers():
    assert reference.exact_statistics([1.0, 2.0, 4.0]) == (Fraction(7, 3), Fraction(14, 9))
    mean, var = reference.exact_statistics([1e30, 1e30, -0.0])
    assert mean == Fraction(2, 3) * Fraction(1e30)
    assert var == Fraction(2, 9) * Fraction(1e30) ** 2


def test_exact_is_the_oracle_where_float64_suffices():
    x, dy, weight, _ = problem((40, 3, 5))
    y = reference.forward(x)
    dx, dweight, dbias = reference.backward(dy, x, weight)
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
    dx, _, _ = reference.backward(dy, x, weight)
    index, h = (1, 1, 2), 1e-5
    step = np.zeros_like(x)
    step[index] = h
    up, down = (reference.forward(z, weight, bias) for z in (x + step, x - step))
    assert abs(((up - down) * dy).sum() / (2 * h) - dx[index]) < 1e-9


def test_textbook_is_the_oracle():
    x, dout, gamma, beta = problem((30, 4))
    param = {"mode": "train"}
    out, cache = seed.forward(x, gamma, beta, param)
    np.testing.assert_allclose(out, reference.forward(x, gamma, beta), rtol=1e-12, atol=1e-13)
    theirs = reference.backward(dout, x, gamma)
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
