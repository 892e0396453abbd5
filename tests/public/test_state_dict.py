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


@pytest.mark.parametrize("key", STATE_KEYS[:4])
def test_missing_and_unknown_keys(key):
    bn = trained()
    before, state = snapshot(bn), BatchNorm(4).state_dict()
    del state[key]
    with pytest.raises(KeyError, match=key):
        bn.load_state_dict(state)
    with pytest.raises(KeyError, match="gamma"):
        bn.load_state_dict(BatchNorm(4).state_dict() | {"gamma": np.ones(4)})
    assert_state(bn, before)


COUNT = "num_batches_tracked"


@pytest.mark.parametrize("features", [4, None])
def test_a_state_without_a_count_leaves_the_count(features):
    """As of checkpoints from before PyTorch 0.4.1."""
    bn, state = trained() if features else BatchNorm(None), trained().state_dict()
    before = bn.num_batches_tracked
    del state[COUNT]
    bn.load_state_dict(state)
    assert bn.num_batches_tracked == before == (3 if features else 0)
    np.testing.assert_array_equal(bn.running_var, state["running_var"])


@pytest.mark.parametrize(
    "count",
    [5, np.int64(5), np.uint8(5), np.array(5), np.array([5]), np.array([5], np.uint32), [5], (5,)],
    ids=repr,
)
def test_a_count_of_shape_one_or_none(count):
    bn = trained()
    bn.load_state_dict(trained().state_dict() | {COUNT: count})
    assert bn.num_batches_tracked == 5
    assert type(bn.num_batches_tracked) is int


@pytest.mark.parametrize(
    ("count", "error"),
    [
        (np.array([5, 6]), ValueError),
        (np.array([[5]]), ValueError),
        (np.array([], int), ValueError),
        (np.array([5.0]), TypeError),
        (5.0, TypeError),
        (True, TypeError),
        (np.array([True]), TypeError),
        ("5", TypeError),
        (None, TypeError),
        (-1, ValueError),
        (np.array([-1]), ValueError),
        (1 << 63, ValueError),
        (np.array([1 << 63], np.uint64), ValueError),
    ],
    ids=repr,
)
def test_other_counts_are_refused_and_change_nothing(count, error):
    bn = trained()
    before = snapshot(bn)
    with pytest.raises(error, match=COUNT):
        bn.load_state_dict(BatchNorm(4).state_dict() | {COUNT: count})
    assert_state(bn, before)


def test_a_layer_without_running_statistics_takes_no_count():
    bn = BatchNorm(4, track_running_stats=False)
    with pytest.raises(KeyError, match=COUNT):
        bn.load_state_dict(bn.state_dict() | {COUNT: 1})


class Unconvertible:
    """As a tensor that has a gradient, or a type that NumPy does not know."""

    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None, copy=None):
        raise self.error


@pytest.mark.parametrize("key", STATE_KEYS)
@pytest.mark.parametrize("raised", [RuntimeError, TypeError, ValueError, KeyError])
def test_values_that_do_not_convert_name_their_key(key, raised):
    bn = trained()
    before, expected = snapshot(bn), ValueError if raised is ValueError else TypeError
    value = Unconvertible(raised("can't be an array"))
    with pytest.raises(expected, match=f"{key} should be an array, got Unconvertible: .*can't be"):
        bn.load_state_dict(BatchNorm(4).state_dict() | {key: value})
    assert_state(bn, before)


def test_states_of_pytorch():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm1d(4)
    theirs(torch.arange(8.0).reshape(2, 4))
    bn = BatchNorm(4)
    bn.load_state_dict(theirs.state_dict())
    assert_state(bn, {key: value.numpy() for key, value in theirs.state_dict().items()})
    bn.load_state_dict(theirs.state_dict() | {COUNT: torch.tensor([7])})
    assert bn.num_batches_tracked == 7
    for value in (theirs.weight, theirs.weight.detach().bfloat16()):
        with pytest.raises(TypeError, match=r"weight should be an array, got (Parameter|Tensor)"):
            bn.load_state_dict(theirs.state_dict() | {"weight": value})


def weight_alone(**arguments):
    """A layer without a bias that has seen a batch."""
    bn = BatchNorm(4, bias=False, **arguments)
    bn(normals((10, 4), np.float32))
    bn.weight[:] = [1, 2, 3, 4]
    return bn


def test_a_layer_with_a_weight_alone_has_a_state_without_bias():
    bn, other = weight_alone(), BatchNorm(4, bias=False)
    keys = [key for key in STATE_KEYS if key != "bias"]
    assert bn.bias is None
    assert list(bn.state_dict()) == list(other.state_dict()) == keys
    other.load_state_dict(bn.state_dict())
    assert_state(other, snapshot(bn))
    lazy = BatchNorm(None, bias=False)
    lazy.load_state_dict(bn.state_dict())
    assert lazy.bias is None
    assert_state(lazy, snapshot(bn))
    x = normals((10, 4), np.float32, seed=8)
    np.testing.assert_array_equal(other.eval()(x), bn.eval()(x))


def test_a_bias_is_neither_missing_nor_unknown_without_a_word():
    bn, other = weight_alone(), trained()
    for layer, state, words in (
        (bn, other.state_dict(), "unknown keys bias"),
        (other, bn.state_dict(), "missing bias"),
        (bn, {"bias": np.ones(4)} | bn.state_dict(), "unknown keys bias"),
    ):
        before = snapshot(layer)
        with pytest.raises(KeyError, match=words):
            layer.load_state_dict(state)
        assert_state(layer, before)


@pytest.mark.parametrize("count", ["as it is", "missing", "of shape (1,)"])
@pytest.mark.parametrize("bias", [True, False])
def test_states_go_to_pytorch_and_back(bias, count):
    torch = pytest.importorskip("torch")
    bn = weight_alone() if not bias else trained()
    theirs = torch.nn.BatchNorm1d(4, bias=bias)
    theirs.load_state_dict({key: torch.from_numpy(a) for key, a in bn.state_dict().items()})
    x = normals((10, 4), np.float32, seed=8)
    y = theirs.eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(bn.eval()(x), y, rtol=1e-5, atol=1e-6)
    theirs.train()(torch.from_numpy(x))
    state, back = dict(theirs.state_dict()), BatchNorm(4, bias=bias)
    if count == "missing":
        del state[COUNT]
    elif count == "of shape (1,)":
        state[COUNT] = state[COUNT].reshape(1)
    back.load_state_dict(state)
    expected = {key: a.numpy() for key, a in theirs.state_dict().items()}
    assert_state(back, expected | ({COUNT: np.array(0)} if count == "missing" else {}))
    assert expected[COUNT] == bn.num_batches_tracked + 1


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
