"""BatchNorm layers: parameters, running statistics, mode, gradients."""

import numpy as np
import pytest
import reference
from data import STATE_KEYS, assert_state, normals, problem, snapshot

import fastbn
from fastbn import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d, batch_stats


def test_a_new_layer():
    bn = BatchNorm(5)
    assert (bn.num_features, bn.eps, bn.momentum, bn.training) == (5, 1e-5, 0.1, True)
    fresh = np.ones(5), np.zeros(5), np.zeros(5), np.ones(5), 0
    assert_state(bn, dict(zip(STATE_KEYS, fresh, strict=True)))
    for name in STATE_KEYS[:4]:
        assert getattr(bn, name).dtype == np.float32
        assert getattr(bn, name).shape == (5,)
    assert bn.num_batches_tracked == 0
    assert bn.state_dict()["num_batches_tracked"].dtype == np.int64
    assert np.shape(bn.state_dict()["num_batches_tracked"]) == ()


def test_arguments_by_position_are_pytorchs():
    bn = BatchNorm(4, 1e-3, 0.2, False, False, dtype=np.float64)
    assert (bn.eps, bn.momentum) == (1e-3, 0.2)
    assert bn.weight is bn.bias is bn.running_mean is bn.running_var is None
    assert bn.state_dict() == {}
    assert BatchNorm(4, affine=False).weight is None
    assert list(BatchNorm(4, affine=False).state_dict()) == STATE_KEYS[2:]
    assert list(BatchNorm(4, track_running_stats=False).state_dict()) == STATE_KEYS[:2]
    assert BatchNorm(4, dtype=np.float64).running_var.dtype == np.float64


@pytest.mark.parametrize("axis", [1, -1, 0])
def test_training_normalises_and_tracks(axis):
    x, _, weight, bias = problem((6, 6, 7, 6), channel_axis=axis)
    bn = BatchNorm(6, eps=1e-3, momentum=0.2, channel_axis=axis, dtype=np.float64)
    bn.weight[:], bn.bias[:] = weight, bias
    expected = reference.forward(x, weight, bias, eps=1e-3, channel_axis=axis)
    np.testing.assert_allclose(bn(x), expected, atol=1e-13)
    mean, var = reference.running(np.zeros(6), np.ones(6), x, 0.2, channel_axis=axis)
    np.testing.assert_allclose(bn.running_mean, mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(bn.running_var, var, rtol=1e-12)
    assert bn.num_batches_tracked == 1
    np.testing.assert_array_equal(bn.saved.stats.mean, batch_stats(x, channel_axis=axis).mean)


def test_evaluation_uses_the_running_statistics_and_changes_nothing():
    bn = BatchNorm(3, dtype=np.float64)
    for seed in range(3):
        bn(normals((10, 3, 4), seed=seed, offset=2.0))
    bn.eval()
    assert bn.training is False
    before, x = snapshot(bn), normals((10, 3, 4), seed=9)
    stats = bn.running_mean.copy(), bn.running_var.copy()
    np.testing.assert_allclose(bn(x), reference.forward(x, stats=stats), atol=1e-13)
    assert_state(bn, before)
    bn.train()
    assert bn.training is True
    np.testing.assert_allclose(bn(x), reference.forward(x), atol=1e-13)


def test_evaluation_accepts_one_value_and_differentiates_through_constants():
    bn = BatchNorm(3, dtype=np.float64)
    bn(normals((10, 3)))
    bn.eval()
    x, dy = normals((1, 3), seed=1), normals((1, 3), seed=2)
    bn(x)
    stats = bn.running_mean, bn.running_var
    expected = reference.backward(dy, x, stats=stats)
    np.testing.assert_allclose(bn.backward(dy), expected[0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(bn.weight_grad, expected[1], rtol=1e-12, atol=1e-14)


def test_backward_in_evaluation_uses_the_statistics_of_its_forward():
    bn = BatchNorm(3, dtype=np.float64)
    bn.eval()
    x, dy = problem((10, 3))[:2]
    bn(x)
    mean, var = bn.running_mean.copy(), bn.running_var.copy()
    bn.running_mean[:], bn.running_var[:] = 7.0, 9.0
    expected = reference.backward(dy, x, stats=(mean, var))[0]
    np.testing.assert_allclose(bn.backward(dy), expected, rtol=1e-12, atol=1e-14)


def test_without_tracking_evaluation_uses_batch_statistics():
    bn = BatchNorm(3, track_running_stats=False, dtype=np.float64)
    bn.eval()
    x = normals((10, 3), offset=5.0)
    np.testing.assert_allclose(bn(x), reference.forward(x), atol=1e-13)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        bn(x[:1])


def test_update_false_leaves_the_running_statistics():
    bn = BatchNorm(3)
    before = snapshot(bn)
    x = normals((10, 3), np.float32)
    y = bn(x, update=False)
    assert_state(bn, before)
    np.testing.assert_array_equal(bn(x), y)
    assert bn.num_batches_tracked == 1


def test_cumulative_momentum_is_the_plain_average():
    bn = BatchNorm(3, momentum=None, dtype=np.float64)
    batches = [normals((10 + i, 3), seed=i, offset=i) for i in range(5)]
    for x in batches:
        bn(x)
    means = np.mean([x.mean(axis=0) for x in batches], axis=0)
    variances = np.mean([x.var(axis=0, ddof=1) for x in batches], axis=0)
    np.testing.assert_allclose(bn.running_mean, means, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(bn.running_var, variances, rtol=1e-12)


def test_gradients_accumulate_until_cleared():
    x, dy, weight, bias = problem((20, 4, 3))
    bn = BatchNorm(4, dtype=np.float64)
    bn.weight[:], bn.bias[:] = weight, bias
    bn(x)
    dx, dweight, dbias = reference.backward(dy, x, weight)[:3]
    for times in (1, 2, 3):
        np.testing.assert_allclose(bn.backward(dy), dx, atol=1e-12)
        np.testing.assert_allclose(bn.weight_grad, times * dweight, rtol=1e-11, atol=1e-14)
        np.testing.assert_allclose(bn.bias_grad, times * dbias, rtol=1e-11, atol=1e-14)
    bn.zero_grad()
    bn.backward(2 * dy)
    np.testing.assert_allclose(bn.weight_grad, 2 * dweight, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(bn.bias_grad, 2 * dbias, rtol=1e-11, atol=1e-14)


def test_without_affine_there_is_only_dx():
    x, dy, _, _ = problem((20, 4))
    bn = BatchNorm(4, affine=False)
    np.testing.assert_allclose(bn(x), reference.forward(x), atol=1e-13)
    np.testing.assert_allclose(bn.backward(dy), reference.backward(dy, x)[0], atol=1e-12)
    assert bn.weight_grad is None
    assert bn.bias_grad is None


def test_float32_layer_on_float64_data():
    x = normals((20, 4))
    y = BatchNorm(4)(x)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, reference.forward(x), atol=1e-13)
    assert BatchNorm(4, dtype=np.float64)(x.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("layer", [BatchNorm, BatchNorm1d])
def test_lazy_size(layer):
    bn = layer(None)
    assert bn.num_features is None
    with pytest.raises(ValueError, match="Expected more than 1 value"):
        bn(normals((1, 7)))
    assert bn.num_features is None
    x = normals((5, 7), np.float32)
    y = bn(x)
    assert bn.num_features == 7
    assert bn.weight.shape == bn.running_var.shape == (7,)
    np.testing.assert_array_equal(y, layer(7)(x))
    with pytest.raises(ValueError, match="7"):
        bn(normals((5, 8), np.float32))


def test_backward_before_forward():
    for layer in (BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d):
        with pytest.raises(RuntimeError, match="forward"):
            layer(3).backward(np.zeros((4, 3)))


def test_nonfinite_batches():
    x = normals((10, 3), np.float32)
    x[4, 1] = np.nan
    bn = BatchNorm(3)
    bn(x)
    assert np.isnan(bn.running_mean).tolist() == [False, True, False]
    bn = BatchNorm(3, nonfinite="skip")
    y = bn(x)
    np.testing.assert_array_equal(bn.running_mean, 0)
    np.testing.assert_array_equal(bn.running_var, 1)
    assert np.isnan(y).any(axis=0).tolist() == [False, True, False]
    bn = BatchNorm(3, nonfinite="raise")
    before = snapshot(bn)
    with pytest.raises(FloatingPointError, match=r"\b1\b"):
        bn(x)
    assert_state(bn, before)


@pytest.mark.parametrize("shape", [(0, 3), (4, 3, 0)])
def test_empty_batch(shape):
    bn = BatchNorm(3)
    y = bn(np.empty(shape, np.float32))
    assert y.shape == shape
    np.testing.assert_array_equal(bn.running_mean, 0)
    np.testing.assert_array_equal(bn.running_var, 1)
    assert bn.backward(y).shape == shape
    np.testing.assert_array_equal(bn.weight_grad, 0)


def test_a_layer_is_the_function():
    x, _, weight, bias = problem((12, 3, 5), np.float32)
    bn = BatchNorm(3)
    bn.weight[:], bn.bias[:] = weight, bias
    np.testing.assert_array_equal(bn(x), fastbn.forward(x, weight, bias)[0])


def test_a_refused_first_batch_leaves_a_lazy_layer_as_it_was():
    bn = fastbn.BatchNorm(None, nonfinite="raise")
    x = np.full((4, 3), np.nan, np.float32)
    with pytest.raises(FloatingPointError, match="channels"):
        bn(x)
    assert bn.num_features is None
    assert bn.weight is None
    assert bn.saved is None
    with pytest.raises(ValueError, match="more than 1 value"):
        bn(x[:1])
    assert bn(np.eye(5, dtype=np.float32)).shape == (5, 5)


def test_gradients_are_both_accumulated_when_numpy_raises():
    bn = BatchNorm(2)
    bn(normals((4, 2)))
    bn.weight_grad[:] = bn.bias_grad[:] = 3e38
    with np.errstate(all="raise"):
        bn.backward(np.full((4, 2), 1e38))
    assert np.isposinf(bn.bias_grad).all()


# --- BatchNorm1d, 2d and 3d -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "rank"), [(BatchNorm1d, 2), (BatchNorm1d, 3), (BatchNorm2d, 4), (BatchNorm3d, 5)]
)
def test_ranks_accepted(layer, rank):
    x = normals((3,) * rank)
    np.testing.assert_allclose(layer(3)(x), reference.forward(x), atol=1e-13)


@pytest.mark.parametrize(("layer", "rank"), [(BatchNorm1d, 3), (BatchNorm2d, 4), (BatchNorm3d, 5)])
def test_arguments_are_those_of_batch_norm(layer, rank):
    bn = layer(4, 1e-3, 0.5, False, channel_axis=-1, dtype=np.float64)
    assert isinstance(bn, BatchNorm)
    x = normals((3,) * (rank - 1) + (4,))
    np.testing.assert_allclose(bn(x), reference.forward(x, eps=1e-3, channel_axis=-1), atol=1e-13)
    np.testing.assert_allclose(
        bn.running_mean, 0.5 * reference.statistics(x, -1)[0], rtol=1e-12, atol=1e-14
    )
    assert layer.__name__ in repr(bn)


# --- statistics by hand ---------------------------------------------------------------------------


def test_update_is_what_a_training_call_does():
    x = normals((6, 3, 5), offset=2.0)
    for momentum in (0.1, None):
        bn, by_hand = (BatchNorm(3, momentum=momentum, dtype=np.float64) for _ in range(2))
        for k in range(3):
            bn(x + k)
            by_hand.update(batch_stats(x + k))
        assert_state(by_hand, snapshot(bn))
    assert by_hand.num_batches_tracked == 3


@pytest.mark.parametrize("convention", ["torch", "keras", "chainer"])
def test_update_may_replace(convention):
    x = normals((6, 3, 5), offset=2.0)
    bn, stats = BatchNorm(3, dtype=np.float64, convention=convention), batch_stats(x)
    bn(x)
    mean, var = bn.running_mean, bn.running_var
    mean[0] = np.nan  # what was there has no part
    bn.update(stats, replace=True)
    assert bn.running_mean is mean  # in place
    assert bn.running_var is var
    np.testing.assert_array_equal(mean, stats.mean)
    np.testing.assert_array_equal(var, stats.var(0 if convention == "keras" else 1))
    assert bn.num_batches_tracked == 1


def test_update_with_nothing_or_nothing_finite():
    bn = BatchNorm(3, nonfinite="skip")
    before = snapshot(bn)
    for replace in (False, True):
        bn.update(fastbn.Stats.empty(3), replace)
        bn.update(fastbn.Stats(4, [0, np.nan, 0], np.ones(3)), replace)
        assert_state(bn, before)
    bn.nonfinite = "raise"
    with pytest.raises(FloatingPointError, match=r"channels \[1\]"):
        bn.update(fastbn.Stats(4, [0, np.nan, 0], np.ones(3)), replace=True)
    assert_state(bn, before)
    lazy = BatchNorm(None, nonfinite="raise")
    with pytest.raises(FloatingPointError):
        lazy.update(fastbn.Stats(4, [np.nan], [1.0]))
    assert lazy.num_features is None
    lazy.update(fastbn.Stats(4, [1.0, 2.0], [4.0, 4.0]))
    assert lazy.num_features == 2
    with pytest.raises(RuntimeError, match="no running statistics"):
        BatchNorm(3, track_running_stats=False).update(fastbn.Stats.empty(3))


@pytest.mark.parametrize(("convention", "ddof"), [("torch", 1), ("flax", 0)])
@pytest.mark.parametrize("prior", [0, 7.5])
def test_adapt(prior, convention, ddof):
    parts = [normals((n, 3, 5), seed=n, offset=n) for n in (2, 1, 4)]
    whole = np.concatenate(parts)
    bn = BatchNorm(3, dtype=np.float64, convention=convention)
    bn.running_mean[:], bn.running_var[:] = [1, -2, 3], [0.5, 1, 4]
    old_mean, old_var = bn.running_mean.copy(), bn.running_var.copy()
    bn.adapt(iter(parts), prior=prior)
    mean, var = reference.statistics(whole)
    n = whole.size // 3
    total = n + prior
    merged = (n * mean + prior * old_mean) / total
    m2 = n * (var + (mean - merged) ** 2) + prior * (old_var + (old_mean - merged) ** 2)
    np.testing.assert_allclose(bn.running_mean, merged, rtol=1e-13)
    np.testing.assert_allclose(bn.running_var, m2 / (total - ddof), rtol=1e-13)
    assert bn.num_batches_tracked == 0


def test_adapt_to_masked_and_to_empty_batches():
    x, weights = normals((4, 3, 5)), normals((4, 5), seed=1) > 0
    bn = BatchNorm(3, dtype=np.float64)
    before = snapshot(bn)
    bn.adapt([np.empty((0, 3, 5)), (x, np.zeros((4, 5)))], prior=3)
    assert_state(bn, before)
    bn.adapt([(x, weights), np.empty((0, 3, 5))])
    np.testing.assert_allclose(bn.running_mean, reference.statistics(x, 1, weights)[0])
    lazy = BatchNorm(None, channel_axis=(1, 2))
    lazy.adapt([x.astype(np.float32)])
    assert lazy.num_features == 15
    with pytest.raises(RuntimeError, match="no running statistics"):
        BatchNorm(3, track_running_stats=False).adapt([x])


def test_a_weight_alone():
    x, dy, weight, _ = problem((6, 3, 5))
    bn = BatchNorm2d(3, bias=False)
    assert bn.bias is bn.bias_grad is None
    assert "bias=False" in repr(bn)
    bn = BatchNorm(3, bias=False, dtype=np.float64)
    bn.weight[:] = weight
    np.testing.assert_allclose(bn(x), reference.forward(x, weight), atol=1e-13)
    expected = reference.backward(dy, x, weight)
    np.testing.assert_allclose(bn.backward(dy), expected.dx, atol=1e-13)
    bn.backward(dy)
    np.testing.assert_allclose(bn.weight_grad, 2 * expected.dweight, atol=1e-12)
    bn.zero_grad()
    assert not bn.weight_grad.any()
    assert list(bn.state_dict()) == [name for name in STATE_KEYS if name != "bias"]
    assert BatchNorm(3, affine=False, bias=True).bias is None
    lazy = BatchNorm(None, bias=False)
    lazy.load_state_dict(bn.state_dict())
    assert lazy.bias is None
    with pytest.raises(KeyError, match="unknown keys bias"):
        bn.load_state_dict(bn.state_dict() | {"bias": np.zeros(3)})
