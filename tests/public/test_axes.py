"""Several channel axes: the same as one axis of all their combinations."""

import numpy as np
import pytest
from data import DTYPES, HALVES, normals

import fastbn
from fastbn import BatchNorm, batch_stats

AXES = [(1, 2), (2, 1), (1, 3), (3, 1), (0, 3), (-1, -2), (2, 3), (3, 0, 1)]
MEMORY = {
    "contiguous": np.ascontiguousarray,
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: a[::-1, :, ::-1],
}


def merged(a, axes):
    """An array whose last axis has all combinations, and the way back."""
    first = [i % a.ndim for i in axes]
    order = [i for i in range(a.ndim) if i not in first] + first
    moved = a.transpose(order)
    shape = moved.shape
    flat = moved.reshape(*shape[: a.ndim - len(axes)], -1)
    return flat, lambda b: b.reshape(shape).transpose(np.argsort(order)), shape[-len(axes) :]


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("axes", AXES)
def test_every_function(axes, memory):
    x, dy = (MEMORY[memory](normals((6, 3, 4, 5), seed=k)) for k in (0, 1))
    flat, back, shape = merged(x, axes)
    weight, bias = normals(shape, seed=2), normals(shape, seed=3)
    mean, var = normals(shape, seed=4), normals(shape, seed=5) ** 2 + 0.5
    rest = [n for i, n in enumerate(x.shape) if i not in [a % 4 for a in axes]]
    weights = normals(rest, seed=6) ** 2
    flats = {"weight": weight.ravel(), "bias": bias.ravel(), "channel_axis": -1}
    for given in ({"weight": weight, "bias": bias}, {"weight": flats["weight"], "bias": bias}):
        y, saved = fastbn.forward(x, **given, channel_axis=axes, weights=weights, residual=dy)
        expected, flat_saved = fastbn.forward(
            flat, **flats, weights=weights, residual=merged(dy, axes)[0]
        )
        np.testing.assert_allclose(y, back(expected), atol=1e-13)
        grads = fastbn.backward(dy, saved)
        others = fastbn.backward(merged(dy, axes)[0], flat_saved)
        np.testing.assert_allclose(grads.dx, back(others.dx), atol=1e-13)
        np.testing.assert_allclose(grads.dresidual, back(others.dresidual), atol=1e-13)
        assert grads.dweight.shape == grads.dbias.shape == shape
        np.testing.assert_allclose(grads.dweight.ravel(), others.dweight, atol=1e-12)
    stats = batch_stats(x, channel_axis=axes)
    assert stats.mean.shape == (np.prod(shape),)
    np.testing.assert_allclose(stats.mean, batch_stats(flat, channel_axis=-1).mean, atol=1e-14)
    for statistics in ((mean, var), (mean.ravel(), var)):
        y = fastbn.normalize(x, statistics, weight, bias, channel_axis=axes)
        expected = fastbn.normalize(flat, (mean.ravel(), var.ravel()), **flats)
        np.testing.assert_allclose(y, back(expected), atol=1e-13)
        again = fastbn.denormalize(y, statistics, weight, bias, channel_axis=axes)
        np.testing.assert_allclose(again, x, atol=1e-12)


@pytest.mark.parametrize("order", ["C", "F"])
def test_running_statistics_move_in_place(order):
    x = normals((6, 3, 4, 5))
    flat, _, shape = merged(x, (1, 2))
    mean, var = np.zeros(shape, np.float32, order), np.ones(shape, np.float32, order)
    fastbn.batch_norm(x, mean, var, training=True, channel_axis=(1, 2))
    expected = np.zeros(12, np.float32), np.ones(12, np.float32)
    fastbn.batch_norm(flat, *expected, training=True, channel_axis=-1)
    np.testing.assert_array_equal((mean.ravel(), var.ravel()), expected)
    locked = np.zeros(shape, order=order)
    locked.setflags(write=False)
    both = np.zeros((3, 6), np.float32)
    with pytest.raises(ValueError, match="running_var should not overlap running_mean"):
        fastbn.batch_norm(x, both[:, :4], both[:, 1:5], training=True, channel_axis=(1, 2))
    with pytest.raises(ValueError, match="running_mean should be writable"):
        fastbn.batch_norm(x, locked, var, training=True, channel_axis=(1, 2))
    y = fastbn.batch_norm(x, mean, var, channel_axis=(1, 2))  # evaluation
    one = fastbn.batch_norm(flat, *expected, channel_axis=-1)
    np.testing.assert_allclose(y, merged(x, (1, 2))[1](one), atol=1e-6)
    lists = mean.tolist(), var.tolist()
    np.testing.assert_array_equal(fastbn.batch_norm(x, *lists, channel_axis=(1, 2)), y)


def test_axes_side_by_side_are_a_view():
    """No array of x's size is made beside the output; where they are apart, one copy is."""
    from fastbn._arrays import layout

    x = np.zeros((4, 3, 5, 7), np.float32)
    for axes in ((1, 2), (2, 3), (1,), (0, 1)):
        assert np.shares_memory(layout.see(x, axes)[0], x)
    assert np.shares_memory(layout.see(x.transpose(0, 3, 1, 2), (2, 3))[0], x)
    for axes in ((1, 3), (2, 1)):
        assert not np.shares_memory(layout.see(x, axes)[0], x)


@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES, np.int32])
def test_dtypes_and_the_order_of_the_output(dtype):
    x = (4 * normals((6, 3, 4, 5))).astype(dtype)
    flat, back, _ = merged(x, (1, 2))
    y, _ = fastbn.forward(x, channel_axis=(1, 2))
    assert y.flags.c_contiguous
    expected = back(fastbn.forward(flat, channel_axis=-1)[0])
    assert y.dtype == expected.dtype
    np.testing.assert_allclose(y.astype(float), expected.astype(float), atol=2e-2)


def test_layers_are_flat():
    x, dy = normals((6, 3, 4, 5), np.float32), normals((6, 3, 4, 5), np.float32, seed=1)
    bn, one = BatchNorm(12, channel_axis=(1, 2)), BatchNorm(12, channel_axis=-1)
    flat, back, _ = merged(x, (1, 2))
    np.testing.assert_allclose(bn(x), back(one(flat)), atol=1e-6)
    np.testing.assert_allclose(
        bn.backward(dy), back(one.backward(merged(dy, (1, 2))[0])), atol=1e-6
    )
    assert bn.weight_grad.shape == (12,)
    np.testing.assert_allclose(bn.weight_grad, one.weight_grad, atol=1e-5)
    np.testing.assert_allclose(bn.running_var, one.running_var, rtol=1e-6)
    state = bn.state_dict()
    assert {value.shape for value in state.values()} == {(12,), ()}
    lazy = BatchNorm(None, channel_axis=(-3, 2))
    lazy(x)
    assert lazy.num_features == 12
    ghost = BatchNorm(20, channel_axis=(2, 3), virtual_batch_size=2)
    np.testing.assert_array_equal(ghost(x)[:2], fastbn.forward(x[:2], channel_axis=(2, 3))[0])
    with pytest.raises(ValueError, match="should contain 15 elements not 12"):
        BatchNorm(12, channel_axis=(1, 3))(x)


def test_wrong_shapes_are_named():
    x = normals((6, 3, 4, 5))
    with pytest.raises(
        ValueError, match=r"weight should have shape \(3, 4\) or \(12,\), got \(4, 3\)"
    ):
        fastbn.forward(x, np.ones((4, 3)), channel_axis=(1, 2))
    with pytest.raises(ValueError, match="weight should contain 12 elements not 11"):
        fastbn.forward(x, np.ones(11), channel_axis=(1, 2))
    with pytest.raises(ValueError, match=r"weights should have shape \(6, 5\) or \(6, 1, 1, 5\)"):
        fastbn.forward(x, channel_axis=(1, 2), weights=np.ones((6, 4, 5)))
    for shape in ((6, 5), (6, 1, 1, 5), (6, 1), (1, 1, 1, 5)):
        fastbn.forward(x, channel_axis=(1, 2), weights=np.ones(shape))
