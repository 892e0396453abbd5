"""What a review found once: each of these failed before it was mended."""

import copy
import math
import pickle

import numpy as np
import pytest
from data import normals

import fastbn


def test_default_parameters_cannot_be_written_through_saved():
    x = normals((6, 3), np.float32)
    saved = fastbn.forward(x)[1]
    with pytest.raises(ValueError, match="read-only"):
        saved.weight[...] = 100


@pytest.mark.parametrize("again", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_of_stats_are_read_only(again):
    s = again(fastbn.batch_stats(normals((6, 3))))
    assert not s.mean.flags.writeable
    assert not s.m2.flags.writeable


def test_running_statistics_are_both_written_when_numpy_raises():
    mean, var = np.full(3, 1e-38, np.float32), np.ones(3, np.float32)
    with np.errstate(all="raise"):
        fastbn.update_running_stats(mean, var, fastbn.Stats(10, [1e-45] * 3, [10.0] * 3))
    np.testing.assert_allclose(var, 0.9 + 0.1 * 10 / 9, rtol=1e-6)


def test_given_statistics_of_an_empty_array_are_kept():
    s = fastbn.Stats(10, [1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    kept = fastbn.forward(np.zeros((0, 3)), stats=s)[1].stats
    np.testing.assert_array_equal(kept.mean, s.mean)
    assert fastbn.forward(np.ones((2, 3)), stats=fastbn.Stats.empty(3))[1].stats.count == 0


def test_an_outlier_in_one_channel_leaves_infinity_in_another_alone():
    x = normals((1000, 2))
    x[500, 0], x[0, 1] = np.inf, 1e4
    assert fastbn.batch_stats(x).mean[0] == np.inf


def test_loading_a_state_of_the_layers_own_arrays():
    bn = fastbn.BatchNorm(3)
    bn.bias[:] = 5
    bn.load_state_dict(bn.state_dict() | {"weight": bn.bias, "bias": bn.weight})
    np.testing.assert_array_equal(bn.weight, 5)
    np.testing.assert_array_equal(bn.bias, 1)


def test_a_lazy_layer_loads_the_state_of_a_torch_module():
    torch = pytest.importorskip("torch")
    bn = fastbn.BatchNorm(None)
    bn.load_state_dict(torch.nn.BatchNorm2d(3).state_dict())
    assert bn.num_features == 3


def test_aliasing_is_exact_whatever_the_strides_of_axes_of_length_one():
    x = normals((6, 3))
    expected = fastbn.batch_norm(x[:, :, None], training=True)
    y = fastbn.batch_norm(x[:, :, None], training=True, out=x.reshape(6, 3, 1))
    np.testing.assert_array_equal(y, expected)


def test_a_seed_call_takes_running_arrays_of_any_precision():
    bn_param = {"mode": "train", "running_mean": np.zeros(3, np.longdouble)}
    fastbn.batchnorm_forward(normals((6, 3)), np.ones(3), np.zeros(3), bn_param)
    assert bn_param["running_mean"].dtype == np.longdouble


@pytest.mark.parametrize("shape", [(4, 2, 16384), (8, 3, 5000), (4, 4, 4550), (2, 2, 40_000)])
def test_long_sums_in_float64_are_added_up_in_parts(shape):
    """A thousand vectors, one added to the other, lost five times as many digits."""
    x, dy = normals((2, *shape), np.float64)
    dbias = fastbn.backward(dy, fastbn.forward(x)[1]).dbias
    for got, values in zip(dbias, np.moveaxis(dy, 1, 0), strict=True):
        walk = np.finfo(np.float64).eps * np.sqrt(np.abs(values).sum())
        assert abs(got - math.fsum(values.ravel())) <= 4 * walk
