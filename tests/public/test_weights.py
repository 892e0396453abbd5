"""Weights: a value counts as often as its weight says, and one without a weight is not read."""

import numpy as np
import options
import pytest
import reference
from agreement import assert_agreement
from data import DTYPES, LAYOUTS, STATE_KEYS, assert_state, channels_last, problem, snapshot
from witness import autograd

import fastbn

SHAPES = [(40, 5), (6, 3, 7), (3, 2, 2500), (2, 5, 33, 35), (64, 20, 7, 7), (4, 8, 6, 2, 3)]
TOLERANCE = {np.float32: 3e-5, np.float64: 1e-10}
MEMORY = {"contiguous": np.ascontiguousarray, "channels_last": channels_last}


def close(got, expected, tolerance):
    """Within the tolerance of a truth whose largest value counts, if it is above 1."""
    size = max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * size)


def masked_problem(shape, dtype=np.float64, share=0.7):
    """A problem and its mask; dy is 0 where nothing counts."""
    x, dy, weight, bias = problem(shape, dtype)
    mask = np.random.default_rng(5).random(np.delete(shape, 1)) < share
    return x, np.where(np.expand_dims(mask, 1), dy, dtype(0)), weight, bias, mask


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("kind", options.WEIGHTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_formula_and_autograd(shape, kind, memory, dtype):
    x, dy, weight, bias = problem(shape, dtype)
    weights = options.WEIGHTS[kind](np.delete(shape, 1))
    x, dy = MEMORY[memory](x), MEMORY[memory](dy)
    y, saved = fastbn.forward(x, weight, bias, weights=weights)
    grads = fastbn.backward(dy, saved)
    stats, tolerance = fastbn.batch_stats(x, weights=weights), TOLERANCE[dtype]
    truth = reference.statistics(x, 1, weights)
    for mine in (stats, saved.stats):
        assert mine.count == pytest.approx(weights.sum(), rel=1e-13)
        close(mine.mean, truth[0], tolerance)
        close(mine.var(), truth[1], tolerance)
    expected = reference.forward(x, weight, bias, weights=weights)
    exact = reference.backward(dy, x, weight, bias, weights=weights)
    theirs, torchs = autograd(dy, x, weight, bias, weights=weights)
    close(y, expected, tolerance)
    close(y, theirs, tolerance)
    for name in ("dx", "dweight", "dbias"):
        close(getattr(grads, name), getattr(exact, name), tolerance)
        close(getattr(grads, name), getattr(torchs, name), tolerance)
    assert y.dtype == grads.dx.dtype == grads.dweight.dtype == dtype
    assert grads.dresidual is None


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("shape", [(300, 6), (5, 6, 40), (30, 6, 7), (2, 6, 3000)])
def test_a_mask_drops_its_positions(shape, dtype):
    x, _, _, _, mask = masked_problem(shape, dtype)
    kept = np.moveaxis(x, 1, -1)[mask]
    stats, plain = fastbn.batch_stats(x, weights=mask), fastbn.batch_stats(kept)
    assert stats.count == plain.count == mask.sum()
    close(stats.mean, plain.mean, 8 * np.finfo(dtype).eps)
    close(stats.var(1), plain.var(1), 64 * np.finfo(dtype).eps)
    y, _ = fastbn.forward(x, weights=mask)
    close(np.moveaxis(y, 1, -1)[mask], fastbn.forward(kept)[0], 64 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_weights_of_one_are_no_weights(dtype):
    x, dy, weight, bias = problem((12, 5, 9), dtype)
    plain, without = fastbn.forward(x, weight, bias)
    y, saved = fastbn.forward(x, weight, bias, weights=np.ones((12, 9)))
    assert saved.stats.count == without.stats.count == 108
    unit = 64 * np.finfo(dtype).eps
    close(y, plain, unit)
    for one, two in zip(
        fastbn.backward(dy, saved)[:3], fastbn.backward(dy, without)[:3], strict=True
    ):
        close(one, two, unit)


@pytest.mark.parametrize("factor", [2.0**-900, 1e-30, 1024, 1e30, 2.0**900])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_a_factor_of_all_weights_changes_the_count_alone(dtype, factor):
    x, dy, weight, bias = problem((12, 5, 9), dtype)
    weights, unit = options.WEIGHTS["real"]((12, 9)), 16 * np.finfo(dtype).eps
    y, saved = fastbn.forward(x, weight, bias, weights=weights)
    z, scaled = fastbn.forward(x, weight, bias, weights=factor * weights)
    assert scaled.stats.count == pytest.approx(factor * saved.stats.count, rel=1e-14)
    close(scaled.stats.mean, saved.stats.mean, unit)
    close(scaled.stats.var(), saved.stats.var(), unit)
    close(z, y, unit)
    close(fastbn.backward(dy, scaled).dx, fastbn.backward(dy, saved).dx, 4 * unit)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_weights_of_very_different_size(dtype):
    x, dy, weight, bias = problem((300, 5, 9), dtype)
    weights = 10.0 ** np.random.default_rng(3).uniform(-30, 30, (300, 9))
    assert_agreement(x, dy, weight, bias, weights=weights)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("kind", ["mask", "real"])
def test_merged_parts_are_the_whole(kind, dtype):
    x = problem((50, 4, 6), dtype)[0]
    weights = options.WEIGHTS[kind]((50, 6))
    parts = [slice(0, 13), slice(13, 20), slice(20, 50)]
    merged = fastbn.merge_stats(fastbn.batch_stats(x[s], weights=weights[s]) for s in parts)
    whole = fastbn.batch_stats(x, weights=weights)
    assert merged.count == pytest.approx(whole.count, rel=1e-13)
    close(merged.mean, whole.mean, 8 * np.finfo(dtype).eps)
    close(merged.var(), whole.var(), 64 * np.finfo(dtype).eps)


# --- shapes, dtypes and memory of weights ---------------------------------------------------------


def everything(x, dy, weight, bias, weights, axis=1):
    """All that a batch gives."""
    settings = {"channel_axis": axis, "weights": weights}
    y, saved = fastbn.forward(x, weight, bias, **settings)
    stats = fastbn.batch_stats(x, **settings)
    assert stats.count == saved.stats.count
    return [y, *fastbn.backward(dy, saved)[:3], saved.stats.mean, saved.stats.m2, stats.count]


def assert_same(one, two):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("axis", [1, -1, 0])
@pytest.mark.parametrize("sides", [(5, 6), (5, 1), (1, 6), (1, 1)])
def test_weights_are_broadcast(sides, axis):
    shape = np.insert((5, 6), axis if axis >= 0 else 2, 4)
    case = problem(tuple(shape), channel_axis=axis)
    weights = options.WEIGHTS["integers"](sides) + 1
    full = np.broadcast_to(weights, (5, 6)).copy()
    expected = everything(*case, full, axis)
    assert_same(everything(*case, weights, axis), expected)
    assert_same(everything(*case, np.expand_dims(weights, axis), axis), expected)
    truth = reference.statistics(case[0], axis, full)
    close(expected[4], truth[0], 1e-13)


@pytest.mark.parametrize(
    "kind", ["?", "i1", "u8", "i8", "f2", "bfloat16", "f4", "f8", ">f4", ">i4"]
)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_weights_of_any_real_dtype(dtype, kind):
    case = problem((7, 3, 5), dtype)
    weights = options.WEIGHTS["mask" if kind == "?" else "integers"]((7, 5))
    expected = everything(*case, weights.astype(np.float64))
    assert_same(everything(*case, weights.astype(np.dtype(kind))), expected)
    assert_same(everything(*case, weights.tolist()), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_of_any_memory(layout):
    case = problem((4, 3, 5, 6))
    weights = options.WEIGHTS["real"]((4, 5, 6))
    given = LAYOUTS[layout](weights)
    assert_same(everything(*case, given), everything(*case, weights))
    np.testing.assert_array_equal(given, weights)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (37, 21), (2, 3, 400)])
def test_x_of_any_memory(shape, layout, dtype):
    x, dy, weight, bias = problem(shape, dtype)
    weights = options.WEIGHTS["real"](np.delete(shape, 1))
    assert_agreement(x, dy, weight, bias, lie=LAYOUTS[layout], weights=weights)


# --- what has no weight ---------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("shape", [(40, 5), (300, 5, 49), (3, 5, 1300), (9, 5, 3), (70_001, 2)])
def test_what_has_no_weight_is_not_read(shape, dtype, bad):
    x, dy, weight, bias, mask = masked_problem(shape, dtype)
    clean = everything(x, dy, weight, bias, mask)
    hidden = np.broadcast_to(~np.expand_dims(mask, 1), shape)
    spoilt = np.where(hidden, dtype(bad), x)
    with np.errstate(all="ignore"):
        y, *others = everything(spoilt, dy, weight, bias, mask)
        expected = reference.forward(spoilt, weight, bias, weights=mask).astype(dtype)
    assert_same(others, clean[1:])
    np.testing.assert_array_equal(y[~hidden], clean[0][~hidden])
    np.testing.assert_array_equal(np.isfinite(y), np.isfinite(expected))
    assert np.isfinite(y[~hidden]).all()


@pytest.mark.parametrize("first", [np.nan, 1e6, -1e30])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("shape", [(400, 5), (6, 5, 900), (100, 5, 7), (20_000, 3)])
def test_the_first_values_may_be_the_unread_ones(shape, dtype, first):
    """They are what estimates the mean where there are no weights."""
    x, dy, weight, bias = problem(shape, dtype, offset=50.0)
    weights = np.ones(np.delete(shape, 1))
    weights[: shape[0] // 3] = 0
    weights[..., :1] *= weights.ndim == 1  # and of each row the first
    hidden = np.broadcast_to(np.expand_dims(weights == 0, 1), shape)
    x, dy = np.where(hidden, dtype(first), x), np.where(hidden, dtype(0), dy)
    assert_agreement(x, dy, weight, bias, weights=weights)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_an_unread_value_has_an_output_and_a_gradient_of_its_own(dtype):
    x, dy, weight, bias = problem((6, 3, 5), dtype)
    weights = np.ones((6, 5))
    weights[2, 3] = 0
    y, saved = fastbn.forward(x, weight, bias, weights=weights)
    stats = fastbn.batch_stats(x, weights=weights)
    at = (2, slice(None), 3)
    fixed = fastbn.normalize(x, stats, weight, bias)
    np.testing.assert_array_equal(y, fixed)
    # no statistic moves with it: its gradient is that of fixed statistics
    invstd = 1 / np.sqrt(stats.var() + 1e-5)
    close(fastbn.backward(dy, saved).dx[at], dy[at] * weight * invstd, 8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("shape", [(40, 3), (3, 3, 300), (30, 3, 7)])
def test_eps_zero_where_all_that_counts_is_one_number(shape, dtype):
    x, dy, weight, bias, mask = masked_problem(shape, dtype)
    mask.flat[0] = False
    x[:, 1] = np.where(mask, dtype(0.1), x[:, 1])
    y, saved = fastbn.forward(x, weight, bias, eps=0.0, weights=mask)
    grads = fastbn.backward(dy, saved)
    assert saved.stats.m2[1] == 0
    assert saved.stats.mean[1] == dtype(0.1)
    np.testing.assert_array_equal(y[:, 1], np.full_like(y[:, 1], bias[1]))
    np.testing.assert_array_equal(grads.dx[:, 1], 0)
    assert grads.dweight[1] == 0
    assert np.isfinite(grads.dx).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("eps", [1e-5, 0.0])
@pytest.mark.parametrize("shape", [(40, 3), (3, 3, 300), (30, 3, 7)])
def test_no_weight_at_all(shape, eps, dtype):
    x, dy, weight, bias = problem(shape, dtype)
    nothing, residual = np.zeros(np.delete(shape, 1)), np.ones_like(x)
    assert fastbn.batch_stats(x, weights=nothing).count == 0
    settings = {"eps": eps, "weights": nothing, "residual": residual, "activation": "relu"}
    y, saved = fastbn.forward(x, weight, bias, **settings)
    grads = fastbn.backward(dy, saved)
    for values in (saved.stats.count, saved.stats.mean, saved.stats.m2):
        np.testing.assert_array_equal(values, 0)
    for values in grads[:3]:
        np.testing.assert_array_equal(values, 0)
    assert np.isfinite(y).all()
    stats = np.zeros(3), np.zeros(3)
    plain = fastbn.normalize(x, stats, weight, bias, eps=eps, residual=residual, activation="relu")
    np.testing.assert_array_equal(y, plain)
    np.testing.assert_array_equal(grads.dresidual, np.where(y > 0, dy, dtype(0)))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("needs", [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)])
def test_no_weight_at_all_and_not_all_gradients(needs, residual):
    x, dy, weight, bias = problem((6, 3, 5))
    settings = {"weights": np.zeros((6, 5)), "residual": dy + 1 if residual else None}
    before = x.copy(), dy.copy()
    _, saved = fastbn.forward(x, weight, bias, **settings)
    grads = fastbn.backward(dy, saved, needs=tuple(map(bool, needs)))
    assert_same((x, dy), before)
    for wanted, grad in zip(needs, grads[:3], strict=True):
        assert (grad is not None) == wanted
        np.testing.assert_array_equal(0 if grad is None else grad, 0)
    if residual:
        np.testing.assert_array_equal(grads.dresidual, dy)


def test_merging_with_what_had_no_weight_changes_nothing():
    x = problem((6, 3, 5))[0]
    stats, empty = fastbn.batch_stats(x), fastbn.batch_stats(x, weights=np.zeros((6, 1)))
    for both in (stats + empty, empty + stats):
        assert both.count == stats.count
        assert_same((both.mean, both.m2), (stats.mean, stats.m2))


# --- fixed statistics -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_fixed_statistics_take_no_weights(dtype):
    x, dy, weight, bias = problem((6, 3, 5), dtype)
    stats = fastbn.batch_stats(x)
    y, saved = fastbn.forward(x, weight, bias, stats=stats)
    for weights in (options.WEIGHTS["real"]((6, 5)), np.zeros((6, 5))):
        z, kept = fastbn.forward(x, weight, bias, stats=stats, weights=weights)
        np.testing.assert_array_equal(z, y)
        assert kept.stats.count == stats.count
        assert_same(fastbn.backward(dy, kept)[:3], fastbn.backward(dy, saved)[:3])
    with pytest.raises(ValueError, match="weights"):
        fastbn.forward(x, stats=stats, weights=-np.ones((6, 5)))
    with pytest.raises(ValueError, match="weights"):
        fastbn.forward(x, stats=stats, weights=np.ones((5, 6)))


def test_one_value_a_channel_is_refused_whatever_its_weight():
    x = problem((1, 3))[0]
    for weights in (np.array([0.0]), np.array([5.0])):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            fastbn.forward(x, weights=weights)
    assert fastbn.batch_stats(x, weights=[5.0]).count == 5


def test_several_values_of_which_one_counts_are_accepted():
    x, dy, weight, bias = problem((4, 3))
    weights = np.array([0, 0, 2.5, 0])
    y, saved = fastbn.forward(x, weight, bias, weights=weights)
    np.testing.assert_array_equal(saved.stats.mean, x[2])
    np.testing.assert_array_equal(saved.stats.m2, 0)
    np.testing.assert_array_equal(y[2], bias)
    expected = reference.backward(dy, x, weight, bias, weights=weights)
    close(fastbn.backward(dy, saved).dx, expected.dx, 1e-12)


# --- layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, -1])
def test_a_layer_tracks_what_counts(axis):
    x, dy, weight, bias = problem((6, 5, 7, 5), channel_axis=axis)
    weights = options.WEIGHTS["integers"]((6, 5, 7) if axis == -1 else (6, 7, 5))
    bn = fastbn.BatchNorm(5, momentum=0.2, channel_axis=axis, dtype=np.float64)
    bn.weight[:], bn.bias[:] = weight, bias
    settings = {"channel_axis": axis, "weights": weights}
    close(bn(x, weights=weights), reference.forward(x, weight, bias, **settings), 1e-13)
    mean, var = reference.running(np.zeros(5), np.ones(5), x, 0.2, **settings)
    close(bn.running_mean, mean, 1e-13)
    close(bn.running_var, var, 1e-13)
    assert bn.num_batches_tracked == 1
    grads = reference.backward(dy, x, weight, bias, **settings)
    close(bn.backward(dy), grads.dx, 1e-12)
    close(bn.weight_grad, grads.dweight, 1e-12)
    close(bn.bias_grad, grads.dbias, 1e-12)


def test_a_layer_without_any_weight_is_left_alone():
    bn = fastbn.BatchNorm(3)
    x = problem((6, 3, 5), np.float32)[0]
    bn(x)
    before = snapshot(bn)
    y = bn(x, weights=np.zeros((6, 5)))
    assert np.isfinite(y).all()
    assert_state(bn, before)
    assert list(before) == STATE_KEYS
    np.testing.assert_array_equal(bn.backward(x), 0)
    np.testing.assert_array_equal(bn.weight_grad, 0)
    cumulative = fastbn.BatchNorm(3, momentum=None)
    cumulative(x, weights=np.zeros((6, 5)))
    assert cumulative.num_batches_tracked == 0


@pytest.mark.parametrize("total", [0.5, 1.001, 1.999, 2.0, 3.0])
def test_little_weight_does_not_blow_up_the_running_variance(total):
    x = problem((6, 3, 5))[0]
    weights = np.full((6, 5), total / 30)
    bn = fastbn.BatchNorm(3, momentum=1.0, dtype=np.float64)
    bn(x, weights=weights)
    var = reference.statistics(x, 1, weights)[1]
    expected = var if weights.sum() < 2 else var * total / (total - 1)
    close(bn.running_var, expected, 1e-12)


def test_a_layer_in_evaluation_takes_no_weights():
    bn = fastbn.BatchNorm(3)
    x = problem((6, 3, 5), np.float32)[0]
    bn(x)
    bn.eval()
    before = snapshot(bn)
    np.testing.assert_array_equal(bn(x, weights=np.zeros((6, 5))), bn(x))
    assert_state(bn, before)
    with pytest.raises(ValueError, match="weights"):
        bn(x, weights=np.zeros((5, 6)))


def test_a_layer_does_not_mind_what_is_not_read():
    x, _, _, _, mask = masked_problem((6, 3, 5), np.float32)
    x = np.where(mask[:, None], x, np.float32(np.nan))
    for nonfinite in ("raise", "skip", "propagate"):
        bn = fastbn.BatchNorm(3, nonfinite=nonfinite)
        bn(x, weights=mask)
        assert np.isfinite(bn.running_mean).all()
        assert bn.running_mean.all()
        assert bn.num_batches_tracked == 1


def test_refused_weights_leave_a_lazy_layer_as_it_was():
    bn = fastbn.BatchNorm(None)
    x = problem((6, 3, 5))[0]
    with pytest.raises(ValueError, match="weights"):
        bn(x, weights=np.ones((5, 6)))
    assert bn.num_features is None
    assert bn.weight is None
    bn(x, weights=np.ones((6, 5)))
    assert bn.num_features == 3


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x", "weights"])
@pytest.mark.parametrize("call", ["forward", "batch_stats", "layer"])
def test_masked_arrays_are_pointed_to_weights(call, name):
    x, _, _, _, mask = masked_problem((6, 3, 5))
    given = {"x": x, "weights": mask}
    given[name] = np.ma.masked_array(given[name], mask=np.zeros_like(given[name], bool))
    function = fastbn.BatchNorm(3) if call == "layer" else getattr(fastbn, call)
    with pytest.raises(TypeError, match=r"masked(.|\n)*weights|weights(.|\n)*masked"):
        function(given["x"], weights=given["weights"])


# --- of any size ----------------------------------------------------------------------------------


SIZES = [*(("f4", size) for size in (1e-45, 1e-40, 1e-38, 1e30))]
SIZES += [("f8", size) for size in (5e-324, 1e-309, 1e-100, 1e200)]


@pytest.mark.parametrize(("kind", "size"), SIZES)
def test_weights_of_any_size(kind, size):
    weight = np.dtype(kind).type(size)
    x = problem((6, 3))[0]
    stats = fastbn.batch_stats(x, weights=np.full(6, weight))
    expected = fastbn.batch_stats(x)
    np.testing.assert_allclose(stats.mean, expected.mean, rtol=1e-12)
    assert stats.count == 6 * float(weight)
    if size > 1e-300:
        np.testing.assert_allclose(stats.var(), expected.var(), rtol=1e-12)


def test_a_gradient_may_not_overwrite_the_bias():
    memory = np.ones((6, 4))
    y, saved = fastbn.forward(np.arange(24.0).reshape(6, 4), None, memory[0], activation="relu")
    with pytest.raises(ValueError, match="out should not overlap bias"):
        fastbn.backward(y, saved, out=memory)
    assert (memory == 1.0).all()
