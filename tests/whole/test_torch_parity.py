"""The same numbers as PyTorch and as the float64 oracle, in every shape, dtype and layout."""

import numpy as np
import pytest
import reference
from data import DTYPES, LAYOUTS, problem

import fastbn

torch = pytest.importorskip("torch")

SHAPES = [
    (100, 16),
    (64, 100),
    (8, 2048),
    (3, 1),
    (5, 1, 3),
    (1, 4, 50),
    (3, 700, 2),
    (2, 33, 129),
    (32, 64, 7, 7),
    (4, 8, 6, 6),
    (2, 3, 64, 64),
    (2, 1, 1, 2),
    (16, 3, 33, 35),
    (6, 130, 14, 14),
    (1, 2, 1, 300),
    (2, 5, 3, 4, 5),
    (3, 16, 2, 9, 8),
]
# layout: how x (N, C, ...) is handed over, and its channel axis
LAYOUT_AXIS = {"contiguous": 1, "channels_last": 1, "last": -1, "strided": 1}
EPS, MOMENTUM = 1e-5, 0.3


def hand_over(a, layout):
    if layout == "last":
        return np.ascontiguousarray(np.moveaxis(a, 1, -1))
    return LAYOUTS[layout](a)


def take_back(a, layout):
    return np.moveaxis(a, -1, 1) if layout == "last" else a


def close(mine, truth, torchs, dtype, scale=1.0):
    """Within a few units in the last place of the oracle, within PyTorch's own error of PyTorch."""
    unit = np.finfo(dtype).eps * scale
    assert mine.dtype == dtype
    np.testing.assert_allclose(mine, truth, rtol=8 * np.finfo(dtype).eps, atol=16 * unit)
    if torchs is not None:
        torchs = torchs.detach().numpy()
        np.testing.assert_allclose(mine, torchs, rtol=200 * np.finfo(dtype).eps, atol=400 * unit)


@pytest.fixture(params=SHAPES, ids=str)
def shape(request):
    return request.param


@pytest.fixture(params=DTYPES, ids=lambda d: d.__name__)
def dtype(request):
    return request.param


@pytest.fixture(params=LAYOUT_AXIS)
def layout(request):
    return request.param


@pytest.fixture
def case(shape, dtype):
    """x, dy, weight, bias, running mean, running variance."""
    rng = np.random.default_rng(9)
    mean, var = rng.normal(size=shape[1]), rng.uniform(0.5, 2.0, shape[1])
    return *problem(shape, dtype, seed=7), mean.astype(dtype), var.astype(dtype)


def tensors(case):
    return [torch.from_numpy(a.copy()).requires_grad_(i in (0, 2, 3)) for i, a in enumerate(case)]


def gradient_scales(x, dy, weight, var):
    """The size of the terms that cancel in dx and in the two sums."""
    n = x.size // x.shape[1]
    dx = np.max(np.abs(weight) / np.sqrt(var + EPS)) * np.max(np.abs(dy))
    return dx, np.sqrt(n) * np.max(np.abs(dy)), np.sqrt(n) * np.max(np.abs(dy))


def test_training(case, dtype, layout):
    x, dy, weight, bias, mean, var = case
    axis = LAYOUT_AXIS[layout]
    y, saved = fastbn.forward(
        hand_over(x, layout), hand_over(weight, "strided"), bias, eps=EPS, channel_axis=axis
    )
    grads = fastbn.backward(hand_over(dy, layout), saved)
    mine_mean, mine_var = mean.copy(), var.copy()
    again = fastbn.batch_norm(
        hand_over(x, layout), mine_mean, mine_var, weight, bias, True, MOMENTUM, EPS,
        channel_axis=axis,
    )  # fmt: skip
    np.testing.assert_array_equal(again, y)

    tx, tdy, tweight, tbias, tmean, tvar = tensors(case)
    ty = torch.nn.functional.batch_norm(tx, tmean, tvar, tweight, tbias, True, MOMENTUM, EPS)
    ty.backward(tdy)
    truth = reference.backward(dy, x, weight, eps=EPS)
    running = reference.running(mean, var, x, MOMENTUM)
    scales = gradient_scales(x, dy, weight, reference.statistics(x)[1])

    close(take_back(y, layout), reference.forward(x, weight, bias, eps=EPS), ty, dtype, 4)
    close(take_back(grads.dx, layout), truth[0], tx.grad, dtype, scales[0])
    close(grads.dweight, truth[1], tweight.grad, dtype, scales[1])
    close(grads.dbias, truth[2], tbias.grad, dtype, scales[2])
    close(mine_mean, running[0], tmean, dtype)
    close(mine_var, running[1], tvar, dtype, 4)


def test_fixed_statistics(case, dtype, layout):
    """Evaluation, and its backward, which takes the statistics as constants."""
    x, dy, weight, bias, mean, var = case
    axis = LAYOUT_AXIS[layout]
    y, saved = fastbn.forward(
        hand_over(x, layout), weight, bias, eps=EPS, channel_axis=axis, stats=(mean, var)
    )
    grads = fastbn.backward(hand_over(dy, layout), saved)
    frozen_mean, frozen_var = mean.copy(), var.copy()
    evaluated = fastbn.batch_norm(
        hand_over(x, layout), frozen_mean, frozen_var, weight, bias, eps=EPS, channel_axis=axis
    )
    normalized = fastbn.normalize(
        hand_over(x, layout), saved.stats, weight, bias, eps=EPS, channel_axis=axis
    )
    np.testing.assert_array_equal(evaluated, y)
    np.testing.assert_array_equal(normalized, y)
    np.testing.assert_array_equal(frozen_mean, mean)
    np.testing.assert_array_equal(frozen_var, var)

    tx, tdy, tweight, tbias, tmean, tvar = tensors(case)
    ty = torch.nn.functional.batch_norm(tx, tmean, tvar, tweight, tbias, False, MOMENTUM, EPS)
    ty.backward(tdy)
    stats = mean.astype(float), var.astype(float)
    truth = reference.backward(dy, x, weight, eps=EPS, stats=stats)
    scales = gradient_scales(x, dy, weight, var)

    expected = reference.forward(x, weight, bias, eps=EPS, stats=stats)
    close(take_back(y, layout), expected, ty, dtype, 8)
    close(take_back(grads.dx, layout), truth[0], tx.grad, dtype, scales[0])
    close(grads.dweight, truth[1], tweight.grad, dtype, 4 * scales[1])
    close(grads.dbias, truth[2], tbias.grad, dtype, scales[2])


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_layers_train_and_evaluate_alike(rank, momentum):
    shape = (6, 5, 4, 3, 2)[: rank + 2]
    mine = getattr(fastbn, f"BatchNorm{rank}d")(5, momentum=momentum)
    theirs = getattr(torch.nn, f"BatchNorm{rank}d")(5, momentum=momentum)
    for seed in range(3):
        x, dy, weight, bias = problem(shape, np.float32, seed=seed)
        mine.weight[:], mine.bias[:] = weight, bias
        with torch.no_grad():
            theirs.weight.copy_(torch.from_numpy(weight))
            theirs.bias.copy_(torch.from_numpy(bias))
        tx = torch.from_numpy(x).requires_grad_()
        ty = theirs(tx)
        ty.backward(torch.from_numpy(dy))
        np.testing.assert_allclose(mine(x), ty.detach().numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(mine.backward(dy), tx.grad.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mine.weight_grad, theirs.weight.grad.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mine.bias_grad, theirs.bias.grad.numpy(), rtol=1e-4, atol=1e-4)
    state, their_state = mine.state_dict(), theirs.state_dict()
    assert list(state) == list(their_state)
    for key, value in their_state.items():
        assert np.shape(state[key]) == tuple(value.shape)
        assert np.asarray(state[key]).dtype == value.numpy().dtype
        np.testing.assert_allclose(state[key], value.numpy(), rtol=1e-5, atol=1e-6)
    mine.eval()
    theirs.eval()
    expected = theirs(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(mine(x), expected, rtol=1e-5, atol=1e-5)
