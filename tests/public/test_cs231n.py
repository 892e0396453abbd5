"""The seed interface: the numbers the CS231n notebooks print, and the semantics of bn_param."""

import numpy as np
import pytest
import reference
from agreement import assert_relative
from data import DTYPES, channels_last, normals, problem

from benchmarks import seed
from fastbn import (
    batchnorm_backward,
    batchnorm_backward_alt,
    batchnorm_forward,
    spatial_batchnorm_backward,
    spatial_batchnorm_forward,
)

N, D1, D2, D3 = 200, 50, 60, 3
# RandomState(231) is the stream of the notebooks' np.random.seed(231).


def two_layers(rng, w1, w2):
    return np.maximum(0, rng.randn(N, D1) @ w1) @ w2


def assert_prints(x, means, stds, axis=0, atol=1e-8):
    """Means and deviations as the notebook prints them, to the digits it prints."""
    np.testing.assert_allclose(x.mean(axis=axis), means, rtol=0, atol=atol)
    np.testing.assert_allclose(x.std(axis=axis), stds, rtol=0, atol=atol)


def test_notebook_train():
    rng = np.random.RandomState(231)
    x, w1, w2 = rng.randn(N, D1), rng.randn(D1, D2), rng.randn(D2, D3)
    a = np.maximum(0, x @ w1) @ w2
    assert_prints(
        a, [-2.3814598, -13.18038246, 1.91780462], [27.18502186, 34.21455511, 37.68611762]
    )
    out, _ = batchnorm_forward(a, np.ones(3), np.zeros(3), {"mode": "train"})
    assert_prints(out, np.zeros(3), [0.99999999, 1.0, 1.0])
    gamma, beta = np.array([1.0, 2.0, 3.0]), np.array([11.0, 12.0, 13.0])
    out, _ = batchnorm_forward(a, gamma, beta, {"mode": "train"})
    assert_prints(out, [11, 12, 13], [0.99999999, 1.99999999, 2.99999999])


def test_notebook_test_time():
    rng = np.random.RandomState(231)
    w1, w2 = rng.randn(D1, D2), rng.randn(D2, D3)
    bn_param = {"mode": "train"}
    for _ in range(50):
        batchnorm_forward(two_layers(rng, w1, w2), np.ones(3), np.zeros(3), bn_param)
    bn_param["mode"] = "test"
    out, cache = batchnorm_forward(two_layers(rng, w1, w2), np.ones(3), np.zeros(3), bn_param)
    assert cache is None
    means, stds = [-0.03927354, -0.04349152, -0.10452688], [1.01531428, 1.01238373, 0.97819988]
    assert_prints(out, means, stds)


def test_notebook_spatial_train():
    rng = np.random.RandomState(231)
    x = 4 * rng.randn(2, 3, 4, 5) + 10
    axis = (0, 2, 3)
    means, stds = [9.33463814, 8.90909116, 9.11056338], [3.61447857, 3.19347686, 3.5168142]
    assert_prints(x, means, stds, axis)
    bn_param = {"mode": "train"}
    out, _ = spatial_batchnorm_forward(x, np.ones(3), np.zeros(3), bn_param)
    assert_prints(out, np.zeros(3), [0.99999962, 0.99999951, 0.9999996], axis)
    gamma, beta = np.asarray([3, 4, 5]), np.asarray([6, 7, 8])
    out, _ = spatial_batchnorm_forward(x, gamma, beta, bn_param)
    assert_prints(out, [6, 7, 8], [2.99999885, 3.99999804, 4.99999798], axis)


def test_notebook_spatial_test_time():
    rng = np.random.RandomState(231)
    bn_param = {"mode": "train"}
    for _ in range(50):
        x = 2.3 * rng.randn(10, 4, 11, 12) + 13
        spatial_batchnorm_forward(x, np.ones(4), np.zeros(4), bn_param)
    bn_param["mode"] = "test"
    x = 2.3 * rng.randn(10, 4, 11, 12) + 13
    out, _ = spatial_batchnorm_forward(x, np.ones(4), np.zeros(4), bn_param)
    means = [-0.08034406, 0.07562881, 0.05716371, 0.04378383]
    assert_prints(out, means, [0.96718744, 1.0299714, 1.02887624, 1.00585577], (0, 2, 3))


def test_notebook_gradients():
    rng = np.random.RandomState(231)
    x = 5 * rng.randn(4, 5) + 12
    gamma, beta, dout = rng.randn(5), rng.randn(5), rng.randn(4, 5)

    def loss(x, gamma, beta):
        return float((batchnorm_forward(x, gamma, beta, {"mode": "train"})[0] * dout).sum())

    _, cache = batchnorm_forward(x, gamma, beta, {"mode": "train"})
    dx, dgamma, dbeta = batchnorm_backward(dout, cache)
    for got, numeric in (
        (dx, reference.numeric_gradient(lambda a: loss(a, gamma, beta), x)),
        (dgamma, reference.numeric_gradient(lambda a: loss(x, a, beta), gamma)),
        (dbeta, reference.numeric_gradient(lambda a: loss(x, gamma, a), beta)),
    ):
        assert_relative(got, numeric)


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_backwards_are_the_textbook(dtype):
    rng = np.random.RandomState(231)
    x = (5 * rng.randn(100, 500) + 12).astype(dtype)
    gamma, beta = rng.randn(2, 500).astype(dtype)
    dout = rng.randn(100, 500).astype(dtype)
    out, cache = batchnorm_forward(x, gamma, beta, {"mode": "train"})
    expected, kept = seed.forward(*(a.astype(float) for a in (x, gamma, beta)), {"mode": "train"})
    tolerance = {"rtol": 30 * np.finfo(dtype).eps, "atol": 30 * np.finfo(dtype).eps}
    np.testing.assert_allclose(out, expected, **tolerance)
    one, two = batchnorm_backward(dout, cache), batchnorm_backward_alt(dout, cache)
    truth = seed.backward(dout.astype(float), kept)
    for a, b, c in zip(one, two, truth, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == dtype
        np.testing.assert_allclose(a, c, rtol=tolerance["rtol"], atol=tolerance["atol"] * 10)


@pytest.mark.parametrize("memory", [np.ascontiguousarray, channels_last])
def test_spatial_is_per_channel(memory):
    x, dout, gamma, beta = problem((4, 3, 5, 6))
    out, cache = spatial_batchnorm_forward(memory(x), gamma, beta, {"mode": "train"})
    np.testing.assert_allclose(out, reference.forward(x, gamma, beta), atol=1e-13)
    grads = spatial_batchnorm_backward(memory(dout), cache)
    for mine, truth in zip(grads, reference.backward(dout, x, gamma)[:3], strict=True):
        np.testing.assert_allclose(mine, truth, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_running_statistics_of_the_first_call(dtype):
    x = normals((30, 4), scale=50.0).astype(dtype)
    bn_param = {"mode": "train"}
    batchnorm_forward(x, np.ones(4), np.zeros(4), bn_param)
    kept = np.float64 if dtype == np.int64 else dtype
    assert bn_param["running_mean"].dtype == bn_param["running_var"].dtype == kept
    np.testing.assert_allclose(bn_param["running_mean"], 0.1 * x.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(bn_param["running_var"], 0.1 * x.var(axis=0), rtol=1e-5)


def test_momentum_weighs_the_old_value():
    x, old = normals((30, 4), offset=3.0), np.full(4, 2.0)
    bn_param = {"mode": "train", "momentum": 0.7, "running_mean": old, "running_var": old}
    batchnorm_forward(x, np.ones(4), np.zeros(4), bn_param)
    np.testing.assert_allclose(
        bn_param["running_mean"], 1.4 + 0.3 * x.mean(axis=0), rtol=1e-12, atol=1e-14
    )
    np.testing.assert_allclose(bn_param["running_var"], 1.4 + 0.3 * x.var(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(old, 2.0)  # new arrays in the dict, the caller's left alone
    kept = bn_param["running_mean"]
    copy = kept.copy()
    batchnorm_forward(x, np.ones(4), np.zeros(4), bn_param)
    assert bn_param["running_mean"] is not kept
    np.testing.assert_array_equal(kept, copy)


def test_eps_of_the_dict_is_used_in_both_directions():
    x, dout, gamma, beta = problem((30, 4))
    out, cache = batchnorm_forward(x, gamma, beta, {"mode": "train", "eps": 0.5})
    np.testing.assert_allclose(out, reference.forward(x, gamma, beta, eps=0.5), atol=1e-13)
    truth = reference.backward(dout, x, gamma, eps=0.5)[:3]
    for mine, other in zip(batchnorm_backward(dout, cache), truth, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-12)


def test_test_mode_leaves_the_dict_as_it_was():
    x, _, gamma, beta = problem((30, 4))
    bn_param = {"mode": "test", "running_mean": np.ones(4), "running_var": np.full(4, 4.0)}
    before = dict(bn_param)
    out, cache = batchnorm_forward(x, gamma, beta, bn_param)
    assert cache is None
    assert bn_param == before
    assert all(bn_param[key] is before[key] for key in before)
    stats = np.ones(4), np.full(4, 4.0)
    np.testing.assert_allclose(out, reference.forward(x, gamma, beta, stats=stats), atol=1e-13)
    empty = {"mode": "test"}
    out, _ = batchnorm_forward(x, gamma, beta, empty)
    zeros = np.zeros(4), np.zeros(4)
    np.testing.assert_allclose(out, reference.forward(x, gamma, beta, stats=zeros), rtol=1e-12)
    assert empty == {"mode": "test"}


@pytest.mark.parametrize("mode", ["train", "test"])
@pytest.mark.parametrize("name", ["gamma", "beta"])
def test_none_is_no_parameter(name, mode):
    given = {"gamma": np.ones(4), "beta": np.zeros(4)} | {name: None}
    with pytest.raises(ValueError, match=f"{name} should be 1-D"):
        batchnorm_forward(normals((5, 4)), **given, bn_param={"mode": mode})


def test_one_sample_gives_beta():
    beta = np.array([1.0, -2.0, 0.3])
    out, cache = batchnorm_forward(normals((1, 3)), np.full(3, 2.0), beta, {"mode": "train"})
    np.testing.assert_array_equal(out, beta[None])
    np.testing.assert_array_equal(batchnorm_backward(np.ones((1, 3)), cache)[0], 0)
    x = normals((1, 3, 1, 1))
    out, _ = spatial_batchnorm_forward(x, np.full(3, 2.0), beta, {"mode": "train"})
    np.testing.assert_array_equal(out.ravel(), beta)


def test_integer_input_computes_as_float64():
    x = np.arange(12).reshape(6, 2) ** 2
    out, cache = batchnorm_forward(x, np.ones(2), np.zeros(2), {"mode": "train"})
    assert out.dtype == np.float64
    np.testing.assert_allclose(out, reference.forward(x), atol=1e-14)
    dx = batchnorm_backward(np.cos(x), cache)[0]
    np.testing.assert_allclose(dx, reference.backward(np.cos(x), x)[0], atol=1e-13)
