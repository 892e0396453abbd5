"""Ghost batch norm and batch renormalization: against groups one by one, and autograd."""

import copy
import pickle

import numpy as np
import pytest
import reference
from data import DTYPES, normals, problem, snapshot

import fastbn
from fastbn import BatchNorm, BatchRenorm, batch_stats

# Samples, the size of a group, and the groups: of (N, C), where a sample is one value a channel.
GROUPS = [
    (12, 4, [4, 4, 4]),
    (13, 4, [4, 4, 5]),
    (14, 4, [4, 4, 4, 2]),
    (5, 8, [5]),
    (3, 1, None),
]


def cut(sizes):
    ends = np.cumsum(sizes)
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def layer(channels=3, kind=BatchNorm, **settings):
    bn = kind(channels, dtype=np.float64, **settings)
    bn.weight[:] = normals(channels, seed=7, offset=1.0)
    if bn.bias is not None:
        bn.bias[:] = normals(channels, seed=8)
    return bn


@pytest.mark.parametrize("options", ["none", "mask", "real", "all"])
@pytest.mark.parametrize("axis", [1, -1, 0])
@pytest.mark.parametrize("tail", [(), (4,), (3, 5)])
@pytest.mark.parametrize(("n", "size", "groups"), GROUPS)
def test_groups_one_by_one(n, size, groups, tail, axis, options):
    shape = {1: (n, 3, *tail), -1: (n, *tail, 3), 0: (3, n, *tail)}[axis]
    x, dy, _, _ = problem(shape, channel_axis=axis)
    if groups is None and not tail:  # a value a channel in each of them
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            layer(virtual_batch_size=size, channel_axis=axis)(x)
        return
    if groups is None or (tail and n % size == 1):
        groups = [size] * (n // size) + [1] * (n % size > 0)
    given = {}
    if options != "none":
        weights = normals((n, *tail), seed=3) > -1.0
        given["weights"] = weights if options == "mask" else weights * 0.7
    if options == "all":
        given["residual"] = normals(shape, seed=4)
    activation = "leaky_relu" if options == "all" else None
    bn = layer(virtual_batch_size=size, channel_axis=axis, activation=activation)
    y = bn(x, **given)
    dx = bn.backward(dy)
    sums = np.zeros((2, 3))
    for part in cut(groups):
        where = (slice(None), part) if axis == 0 else part
        of_group = {k: v[part if k == "weights" else where] for k, v in given.items()}
        settings = {"channel_axis": axis, "activation": activation}
        expected, saved = fastbn.forward(x[where], bn.weight, bn.bias, **settings, **of_group)
        grads = fastbn.backward(dy[where], saved)
        np.testing.assert_array_equal(y[where], expected)
        np.testing.assert_array_equal(dx[where], grads.dx)
        if options == "all":
            np.testing.assert_array_equal(bn.residual_grad[where], grads.dresidual)
        sums += grads[1:3]
    np.testing.assert_allclose((bn.weight_grad, bn.bias_grad), sums, atol=1e-12)
    stats = batch_stats(x, channel_axis=axis, weights=given.get("weights"))
    np.testing.assert_allclose(bn.running_mean, 0.1 * stats.mean, atol=1e-14)
    np.testing.assert_allclose(bn.running_var, 0.9 + 0.1 * stats.var(1), rtol=1e-13)
    assert bn.num_batches_tracked == 1
    np.testing.assert_allclose(bn.saved.stats.count, stats.count, rtol=1e-15)


@pytest.mark.parametrize("dtype", [*DTYPES, np.float16, np.int64])
@pytest.mark.parametrize("memory", ["contiguous", "channels last", "strided"])
def test_ghosts_of_any_memory(memory, dtype):
    x = (4 * normals((7, 3, 6, 5))).astype(dtype)
    if memory == "channels last":
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1)).transpose(0, 3, 1, 2)
    elif memory == "strided":
        x = np.repeat(x, 2, axis=-1)[..., ::2]
    bn, before = BatchNorm(3, virtual_batch_size=3), x.copy()
    y, dy = bn(x), normals(x.shape)
    assert y.dtype == (np.float64 if dtype == np.int64 else dtype)
    if memory != "strided":
        assert y.strides == tuple(s // x.itemsize * y.itemsize for s in x.strides)
    dx = bn.backward(dy.astype(y.dtype))
    for part in cut([3, 3, 1]):
        expected, saved = fastbn.forward(x[part])
        np.testing.assert_array_equal(y[part], expected)
        np.testing.assert_array_equal(dx[part], fastbn.backward(dy[part].astype(y.dtype), saved).dx)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_groups_that_a_team_shares(activation, axis, keep_threads):
    shape = (22, 16, 30, 31) if axis == 1 else (22, 30, 31, 16)
    x, dy, weight, bias = problem(shape, np.float32, channel_axis=axis)
    residual = normals(shape, np.float32, seed=5) if activation else None
    found = []
    for k in (1, 2, 3, 8):
        fastbn.set_num_threads(k)
        bn = BatchNorm(16, channel_axis=axis, virtual_batch_size=4, activation=activation)
        bn.weight[:], bn.bias[:] = weight, bias
        found.append((bn(x, residual=residual), bn.backward(dy), bn.residual_grad, bn.weight_grad))
        assert bn.saved.alike[1].buffers.shape == (5, 4, 16)
    for part in cut([4, 4, 4, 4, 4, 2]):
        of_group = {} if residual is None else {"residual": residual[part]}
        settings = {"channel_axis": axis, "activation": activation}
        y, saved = fastbn.forward(x[part], weight, bias, **settings, **of_group)
        grads = fastbn.backward(dy[part], saved)
        for one in found:
            np.testing.assert_array_equal(one[0][part], y)
            np.testing.assert_array_equal(one[1][part], grads.dx)
            if activation:
                np.testing.assert_array_equal(one[2][part], grads.dresidual)
            np.testing.assert_array_equal(one[3], found[0][3])


@pytest.mark.parametrize("shape", [(8, 3, 7, 5), (8, 7, 5, 3), (12, 130), (8, 2, 331), (8, 37, 9)])
def test_groups_where_stores_go_past_the_caches(shape, small_cache):
    """Parts begin anywhere on a line of the cache."""
    axis = -1 if shape[-1] == 3 else 1
    x, dy, weight, bias = problem(shape, np.float32, channel_axis=axis)
    bn = BatchNorm(len(weight), channel_axis=axis, virtual_batch_size=2)
    bn.weight[:], bn.bias[:] = weight, bias
    y, dx = bn(x), bn.backward(dy)
    for part in cut([2] * (len(x) // 2)):
        expected, saved = fastbn.forward(x[part], weight, bias, channel_axis=axis)
        np.testing.assert_array_equal(y[part], expected)
        np.testing.assert_array_equal(dx[part], fastbn.backward(dy[part], saved).dx)


def test_groups_of_a_single_value_a_channel():
    with pytest.raises(
        ValueError, match=r"more than 1 value per channel .*got input size \(1, 3\)"
    ):
        BatchNorm(3, virtual_batch_size=1)(normals((3, 3)))
    bn = BatchNorm(3, virtual_batch_size=1, convention="keras", dtype=np.float64)
    np.testing.assert_array_equal(bn(normals((3, 3))), 0.0)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        BatchNorm(3, virtual_batch_size=4)(normals((1, 3)))


def test_evaluation_and_what_is_empty_are_ordinary():
    bn, plain = layer(virtual_batch_size=2), layer()
    x = normals((6, 3, 4))
    for one in (bn, plain):
        one(x)
        one.eval()
    np.testing.assert_allclose(bn(x), plain(x), rtol=1e-14)
    bn.train()
    before = snapshot(bn)
    assert bn(np.empty((0, 3, 4))).shape == (0, 3, 4)
    assert bn.backward(np.empty((0, 3, 4))).shape == (0, 3, 4)
    bn(x, weights=np.zeros((6, 4)))
    np.testing.assert_array_equal(bn.running_mean, before["running_mean"])
    assert bn.num_batches_tracked == 1
    bn(x, update=False)
    np.testing.assert_array_equal(bn.running_var, before["running_var"])


def test_a_group_without_weight_has_no_part():
    x, weights = normals((4, 3, 5)), np.ones((4, 5))
    weights[:2] = 0
    bn = layer(virtual_batch_size=2)
    bn(x, weights=weights)
    np.testing.assert_allclose(bn.running_mean, 0.1 * batch_stats(x[2:]).mean, rtol=1e-13)
    dx = bn.backward(np.ones_like(x))
    assert not dx[:2].any()


def test_copies_and_pickles():
    bn = layer(virtual_batch_size=2)
    bn(normals((4, 3)))
    for again in (copy.deepcopy(bn), pickle.loads(pickle.dumps(bn))):
        np.testing.assert_array_equal(again(normals((4, 3))), bn(normals((4, 3)), update=False))


# --- batch renormalization ------------------------------------------------------------------------


def by_autograd(x, dy, bn, running, weights, axis):
    """y, dx, dweight and dbias of the article's formula, r and d held constant."""
    torch = pytest.importorskip("torch")
    moved, grad = (torch.tensor(np.moveaxis(a, axis, 1).copy()) for a in (x, dy))
    moved.requires_grad_()
    shape = (1, -1, *[1] * (moved.ndim - 2))
    weight, bias = (torch.tensor(a, requires_grad=True) for a in (bn.weight, bn.bias))
    mean, var = (torch.tensor(a).reshape(shape) for a in running)
    w = torch.ones(()) if weights is None else torch.tensor(np.expand_dims(weights, 1))
    w = w.expand(moved[:, :1].shape)
    axes = [i for i in range(moved.ndim) if i != 1]
    batch = (w * moved).sum(axes, keepdim=True) / w.sum()
    spread = (w * (moved - batch) ** 2).sum(axes, keepdim=True) / w.sum()
    deviation, sigma = torch.sqrt(spread + bn.eps), torch.sqrt(var + bn.eps)
    r = (deviation / sigma).clamp(1 / bn.rmax, bn.rmax).detach()
    d = ((batch - mean) / sigma).clamp(-bn.dmax, bn.dmax).detach()
    y = ((moved - batch) / deviation * r + d) * weight.reshape(shape) + bias.reshape(shape)
    y.backward(grad)
    arrays = (np.moveaxis(a.numpy(), 1, axis) for a in (y.detach(), moved.grad))
    return (*arrays, weight.grad.numpy(), bias.grad.numpy()), r.numpy().ravel(), d.numpy().ravel()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("limits", [(1.0, 0.0), (1.5, 0.4), (100.0, 100.0)])
def test_renorm_is_what_autograd_finds(limits, axis, weighted):
    x, dy, _, _ = problem((7, 6, 5) if axis == 1 else (7, 5, 6), channel_axis=axis)
    bn = layer(6, BatchRenorm, rmax=limits[0], dmax=limits[1], channel_axis=axis)
    bn.running_mean[:] = [-3, 0, 0.1, 3, 0, 0]  # clipped below, within, above
    bn.running_var[:] = [1, 0.01, 1, 1, 100, 4]
    running = bn.running_mean.copy(), bn.running_var.copy()
    weights = normals((7, 5), seed=5) ** 2 if weighted else None
    y = bn(x, weights=weights)
    found = (y, bn.backward(dy), bn.weight_grad, bn.bias_grad)
    expected, r, d = by_autograd(x, dy, bn, running, weights, axis)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-10)
    np.testing.assert_allclose((bn.saved.r, bn.saved.d), (r, d), rtol=1e-12, atol=1e-15)
    if limits == (1.5, 0.4):  # the test has all three cases of both
        for ratio, limit in ((bn.saved.r, (1 / 1.5, 1.5)), (bn.saved.d, (-0.4, 0.4))):
            below, above = np.isclose(ratio, limit[0]), np.isclose(ratio, limit[1])
            assert below.any()
            assert above.any()
            assert not (below | above).all()
    mean, var = reference.running(*running, x, 0.1, channel_axis=axis, weights=weights)
    np.testing.assert_allclose(bn.running_mean, mean, atol=1e-13)
    np.testing.assert_allclose(bn.running_var, var, rtol=1e-12)


def test_limits_of_1_and_0_are_batch_norm():
    x, dy, _, _ = problem((6, 3, 5))
    bn, plain = layer(3, BatchRenorm, rmax=1, dmax=0), layer()
    np.testing.assert_allclose(bn(x), plain(x), atol=1e-14)
    np.testing.assert_allclose(bn.backward(dy), plain.backward(dy), atol=1e-14)
    bn.rmax, bn.dmax = 3.0, 5.0  # both are writable
    assert abs(bn(x) - plain(x)).max() > 0.1
    bn.rmax = 0.5
    with pytest.raises(ValueError, match="rmax should be at least 1"):
        bn(x)


def test_renorm_in_training_is_evaluation_where_limits_are_wide():
    x = normals((8, 3, 5), offset=1.0)
    bn = layer(3, BatchRenorm, rmax=1e9, dmax=1e9)
    bn(x)
    trained = bn(normals((8, 3, 5), seed=2), update=False)
    np.testing.assert_allclose(trained, bn.eval()(normals((8, 3, 5), seed=2)), atol=1e-12)


def test_renorm_with_everything():
    x, dy, _, _ = problem((6, 3, 5))
    residual, weights = normals(x.shape, seed=4), normals((6, 5), seed=5) > -1
    bn = layer(3, BatchRenorm, virtual_batch_size=2, activation="relu", rmax=2.0, dmax=1.0)
    bn.running_var[:] = 4.0
    y, running = bn(x, residual=residual, weights=weights, update=False), bn.running_var.copy()
    dx = bn.backward(dy)
    for k in range(0, 6, 2):
        one, part = layer(3, BatchRenorm, activation="relu", rmax=2.0, dmax=1.0), slice(k, k + 2)
        one.running_var[:] = running
        expected = one(x[part], residual=residual[part], weights=weights[part])
        np.testing.assert_array_equal(y[part], expected)
        np.testing.assert_array_equal(dx[part], one.backward(dy[part]))
        np.testing.assert_array_equal(bn.residual_grad[part], one.residual_grad)
    assert BatchRenorm(3, bias=False).bias is None
    bn = BatchRenorm(None, affine=False)
    bn.backward(bn(x.astype(np.float32)))
    assert bn.num_features == 3


def test_renorm_of_one_value_and_of_none():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        BatchRenorm(3)(normals((1, 3)))
    assert BatchRenorm(3, convention="keras")(normals((1, 3))).shape == (1, 3)
    bn = BatchRenorm(3)
    assert bn(np.empty((0, 3), np.float32)).shape == (0, 3)
    assert bn.num_batches_tracked == 0


def test_renorm_where_nothing_varies():
    bn = BatchRenorm(2, eps=0.0, dtype=np.float64)
    bn.running_var[:] = 0.0
    y = bn(np.full((4, 2), 3.0))
    assert np.isfinite(y).all()
    assert np.isfinite(bn.backward(np.ones((4, 2)))).all()
