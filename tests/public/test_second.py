"""Second derivatives, against PyTorch's autograd and finite differences."""

import numpy as np
import pytest
import reference
from data import DTYPES, HALVES, LAYOUTS, normals, problem

import fastbn
from fastbn import double_backward

TOLERANCE = {np.float64: 1e-11, np.float32: 2e-5}


def torchs(dy, x, weight, ddx, ddweight, ddbias, eps, stats):
    """ddy, dx and dweight by PyTorch, in float64."""
    torch = pytest.importorskip("torch")

    def leaf(a):
        return torch.tensor(np.array(a, np.float64, order="C"), requires_grad=True)

    dy, x, weight = leaf(dy), leaf(x), leaf(weight)
    bias = torch.zeros_like(weight, requires_grad=True)
    fixed = (None, None) if stats is None else (torch.tensor(s) for s in stats)
    y = torch.nn.functional.batch_norm(x, *fixed, weight, bias, training=stats is None, eps=eps)
    grads = torch.autograd.grad(y, (x, weight, bias), dy, create_graph=True)
    into = [torch.tensor(np.array(a, np.float64, order="C")) for a in (ddx, ddweight, ddbias)]
    loss = sum((grad * given).sum() for grad, given in zip(grads, into, strict=True))
    found = torch.autograd.grad(loss, (dy, x, weight), allow_unused=True)
    return [np.zeros(1) if grad is None else grad.numpy() for grad in found]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "byteswapped"])
@pytest.mark.parametrize("shape", [(6, 5, 3, 4), (33, 7), (4, 3, 130), (2, 1, 2)])
@pytest.mark.parametrize("kind", ["batch", "fixed"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_autograd(dtype, kind, shape, layout):
    x, dy, weight, _ = problem(shape, dtype, offset=3.0)
    channels, ddx = shape[1], normals(shape, dtype, seed=9)
    a, b = normals(channels, seed=10), normals(channels, seed=11)
    stats = None if kind == "batch" else (normals(channels, seed=12), np.full(channels, 0.7))
    x, dy, ddx = (LAYOUTS[layout](array) for array in (x, dy, ddx))
    _, saved = fastbn.forward(x, weight, stats=stats, eps=1e-3)
    for given in ((a, b), (None, None), (a, None), (None, b)):
        found = double_backward(dy, saved, ddx, *given)
        zeros = [np.zeros(channels) if vector is None else vector for vector in given]
        expected = torchs(dy, x, weight, ddx, *zeros, 1e-3, stats)
        assert all(array.dtype == dtype for array in found)
        for one, two in zip(found, expected, strict=True):
            scale = max(1.0, abs(two).max())
            np.testing.assert_allclose(one, two + 0 * one, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("shape", [(6, 5, 3, 4), (33, 5), (4, 5, 130)])
def test_weights_that_leave_no_factor(shape):
    """Where a coefficient is 0 others cannot be multiples of it."""
    x, dy, weight, _ = problem(shape)
    ddx, a, b = normals(shape, seed=9), normals(5, seed=10), normals(5, seed=11)
    weight[1], weight[3], dy[:, 2] = 0.0, 1e-30, 0.0
    for dtype in DTYPES:
        _, saved = fastbn.forward(x.astype(dtype), weight, eps=1e-3)
        found = double_backward(dy.astype(dtype), saved, ddx.astype(dtype), a, b)
        expected = torchs(dy, x, weight, ddx, a, b, 1e-3, None)
        for one, two in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, two, atol=TOLERANCE[dtype] * max(1, abs(two).max()))


@pytest.mark.parametrize("stats", [None, (np.array([0.3, -1.0]), np.array([0.5, 2.0]))])
def test_finite_differences(stats):
    """Of the oracle's gradients, which know nothing of fastbn."""
    x, dy, weight, _ = problem((4, 2, 3))
    ddx, a, b = normals(x.shape, seed=5), normals(2, seed=6), normals(2, seed=7)

    def loss(dy, x, weight):
        grads = reference.backward(dy, x, weight, eps=1e-2, stats=stats)
        return (grads.dx * ddx).sum() + (grads.dweight * a).sum() + (grads.dbias * b).sum()

    _, saved = fastbn.forward(x, weight, eps=1e-2, stats=stats)
    ddy, dx, dweight = double_backward(dy, saved, ddx, a, b)
    numeric = reference.numeric_gradient
    np.testing.assert_allclose(ddy, numeric(lambda v: loss(v, x, weight), dy), atol=1e-8)
    np.testing.assert_allclose(dx, numeric(lambda v: loss(dy, v, weight), x), atol=1e-8)
    np.testing.assert_allclose(dweight, numeric(lambda v: loss(dy, x, v), weight), atol=1e-8)


def test_a_gradient_penalty():
    """What second derivatives are for: the gradient of ``sum(dx ** 2) / 2``."""
    torch = pytest.importorskip("torch")
    x, dy, weight, _ = problem((5, 3, 4))
    _, saved = fastbn.forward(x, weight)
    dx = fastbn.backward(dy, saved).dx
    found = double_backward(dy, saved, dx)[1]
    leaf = torch.tensor(x, requires_grad=True)
    y = torch.nn.functional.batch_norm(leaf, None, None, torch.tensor(weight), None, True)
    (grad,) = torch.autograd.grad(y, leaf, torch.tensor(dy), create_graph=True)
    (grad**2).sum().div(2).backward()
    np.testing.assert_allclose(found, leaf.grad.numpy(), atol=1e-10)


@pytest.mark.parametrize("axis", [1, -1])
def test_any_number_of_threads_and_kind_of_store_has_the_same_bits(axis, stores, keep_threads):
    shape = (16, 8, 33, 31) if axis == 1 else (16, 33, 31, 8)
    x, dy, weight, bias = problem(shape, np.float32, channel_axis=axis)
    ddx, found = normals(shape, np.float32, seed=5), []
    for k in (1, 2, 3, 8):
        fastbn.set_num_threads(k)
        _, saved = fastbn.forward(x, weight, channel_axis=axis)
        found.append(double_backward(dy, saved, ddx, weight, bias))
    for others in found[1:]:
        for one, two in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_slope_alone_is_no_activation():
    x = normals((5, 3, 4))
    _, saved = fastbn.forward(x, negative_slope=0.2)
    _, plain = fastbn.forward(x)
    for one, two in zip(double_backward(x, saved, x), double_backward(x, plain, x), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_constant_channel_and_eps_0():
    x, dy, weight, _ = problem((5, 3, 4))
    x[:, 1], ddx, ones = 2.0, normals(x.shape, seed=5), np.ones(3)
    _, saved = fastbn.forward(x, weight, eps=0.0)
    ddy, dx, dweight = double_backward(dy, saved, ddx, ones, 5 * ones)
    np.testing.assert_array_equal(ddy[:, 1], 5.0)
    assert not dx[:, 1].any()
    assert dweight[1] == 0


@pytest.mark.parametrize("dtype", HALVES)
def test_sixteen_bits(dtype):
    x, dy, weight, _ = problem((6, 5, 40))
    x, dy, ddx = (a.astype(dtype) for a in (x, dy, normals(x.shape, seed=5)))
    _, saved = fastbn.forward(x, weight)
    found = double_backward(dy, saved, ddx)
    assert [array.dtype for array in found] == [dtype, dtype, np.float32]
    wide = [a.astype(np.float32) for a in (x, dy, ddx)]
    _, saved = fastbn.forward(wide[0], weight)
    for one, two in zip(found, double_backward(wide[1], saved, wide[2]), strict=True):
        gap = abs(one.astype(np.float32) - two)
        assert gap.max() <= 2.0 ** (-9 if dtype == np.float16 else -6) * abs(two).max()


def test_an_empty_batch_integers_and_several_axes():
    x = np.empty((0, 3, 4), np.float32)
    _, saved = fastbn.forward(x)
    ddy, dx, dweight = double_backward(x, saved, x)
    assert ddy.shape == dx.shape == x.shape
    np.testing.assert_array_equal(dweight, np.zeros(3, np.float32))
    x, dy, ddx = np.arange(24).reshape(2, 3, 4), normals((2, 3, 4)), normals((2, 3, 4), seed=1)
    _, saved = fastbn.forward(x, channel_axis=(2, 1))
    ddy, dx, dweight = double_backward(dy, saved, ddx, normals((4, 3), seed=2))
    assert dx.dtype == np.float64
    assert dweight.shape == (4, 3)
    flat = [a.transpose(0, 2, 1).reshape(2, 12) for a in (x, dy, ddx)]
    _, saved = fastbn.forward(flat[0])
    expected = double_backward(flat[1], saved, flat[2], normals((4, 3), seed=2).ravel())
    np.testing.assert_allclose(dx.transpose(0, 2, 1).reshape(2, 12), expected[1], atol=1e-12)
    np.testing.assert_allclose(dweight.ravel(), expected[2], atol=1e-12)
