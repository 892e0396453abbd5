"""The state of a layer: out, in, and into another process."""

import pickle

import numpy as np
import pytest
from data import STATE_KEYS, assert_state, normals, snapshot

from fastbn import BatchNorm


def trained():
    bn = BatchNorm(4)
    for seed in range(3):
        bn(normals((10, 4), np.float32, seed=seed))
    bn.weight[:] = [1, 2, 3, 4]
    return bn


def test_state_goes_round():
    bn, other = trained(), BatchNorm(4)
    other.load_state_dict(bn.state_dict())
    assert_state(other, snapshot(bn))
    assert list(bn.state_dict()) == STATE_KEYS
    x = normals((10, 4), np.float32, seed=8)
    np.testing.assert_array_equal(other(x), bn(x))
    np.testing.assert_array_equal(other.running_var, bn.running_var)
    assert other.num_batches_tracked == bn.num_batches_tracked == 4
    assert not np.shares_memory(other.running_mean, bn.running_mean)


def test_lazy_layer_takes_its_size_from_the_state():
    bn = BatchNorm(None)
    bn.load_state_dict(trained().state_dict())
    assert bn.num_features == 4
    assert_state(bn, snapshot(trained()))


def test_loading_keeps_the_layers_dtype():
    bn = BatchNorm(4, dtype=np.float64)
    bn.load_state_dict(trained().state_dict())
    assert bn.weight.dtype == bn.running_mean.dtype == np.float64


@pytest.mark.parametrize("key", STATE_KEYS)
def test_missing_and_unknown_keys(key):
    bn = trained()
    before, state = snapshot(bn), BatchNorm(4).state_dict()
    del state[key]
    with pytest.raises(KeyError, match=key):
        bn.load_state_dict(state)
    with pytest.raises(KeyError, match="gamma"):
        bn.load_state_dict(BatchNorm(4).state_dict() | {"gamma": np.ones(4)})
    assert_state(bn, before)


@pytest.mark.parametrize("key", STATE_KEYS[:4])
def test_loading_another_shape_changes_nothing(key):
    bn = trained()
    before = snapshot(bn)
    with pytest.raises(ValueError, match=f"{key}.*4.*5"):
        bn.load_state_dict(BatchNorm(4).state_dict() | {key: np.ones(5)})
    assert_state(bn, before)


def test_reset_running_stats():
    bn = trained()
    bn.reset_running_stats()
    np.testing.assert_array_equal(bn.running_mean, 0)
    np.testing.assert_array_equal(bn.running_var, 1)
    assert bn.num_batches_tracked == 0
    np.testing.assert_array_equal(bn.weight, [1, 2, 3, 4])


def test_layers_are_picklable():
    bn = trained()
    other = pickle.loads(pickle.dumps(bn))
    assert_state(other, snapshot(bn))
