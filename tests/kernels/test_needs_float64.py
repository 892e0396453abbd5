"""Channels that float32 cannot sum are summed again, and only they: no bit of another changes."""

import numpy as np
import pytest
import reference
from data import problem, spoil

import fastbn

SHAPES = [(64, 5, 300), (4096, 5), (70_000, 5)]
OTHERS = [0, 1, 3, 4]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("how", [1e30, 1e-30, "outlier", "constant", np.nan])
def test_forward(shape, how):
    x, dy, weight, bias = problem(shape, np.float32)
    before, kept = fastbn.forward(x, weight, bias, eps=0.0)
    grads = fastbn.backward(dy, kept)
    spoil(x[:, 2], how)
    y, saved = fastbn.forward(x, weight, bias, eps=0.0)
    mine = fastbn.backward(dy, saved)
    for one, two in ((y, before), (mine.dx, grads.dx)):
        np.testing.assert_array_equal(one[:, OTHERS], two[:, OTHERS])
    np.testing.assert_array_equal(saved.stats.m2[OTHERS], kept.stats.m2[OTHERS])
    np.testing.assert_array_equal(mine.dweight[OTHERS], grads.dweight[OTHERS])
    np.testing.assert_array_equal(mine.dbias[OTHERS], grads.dbias[OTHERS])
    if how == "constant":
        np.testing.assert_array_equal(y[:, 2], bias[2])
    elif how is np.nan:
        assert np.all(np.isnan(y[:, 2]))
    else:
        expected = reference.forward(x.astype(np.float64), weight, bias, eps=0.0)[:, 2]
        size = np.max(np.abs(expected))
        np.testing.assert_allclose(y[:, 2], expected, rtol=0, atol=4e-7 * size)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [1e-42, 1e30, 0.0])
def test_backward(shape, scale):
    x, dy, weight, bias = problem(shape, np.float32)
    _, saved = fastbn.forward(x, weight, bias)
    grads = fastbn.backward(dy, saved)
    dy[:, 2] *= np.float32(scale)
    mine = fastbn.backward(dy, saved)
    np.testing.assert_array_equal(mine.dx[:, OTHERS], grads.dx[:, OTHERS])
    np.testing.assert_array_equal(mine.dweight[OTHERS], grads.dweight[OTHERS])
    truth = reference.backward(dy.astype(np.float64), x.astype(np.float64), weight)
    for got, wanted in ((mine.dx[:, 2], truth[0][:, 2]), (mine.dweight[2], truth[1][2])):
        size = np.max(np.abs(truth[0][:, 2])) * (1 if got.ndim else np.sqrt(dy.size) * 4)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6 * size + 1e-44)


@pytest.mark.parametrize("tiny", [1e-25, 1e-30])
def test_columns_that_cancel(tiny):
    x = np.tile(np.array([[tiny], [-tiny]], np.float32), (50_000, 3))
    y = fastbn.forward(x, eps=0.0)[0]
    np.testing.assert_allclose(np.abs(y), 1, rtol=1e-6)
