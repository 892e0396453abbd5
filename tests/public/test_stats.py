"""Stats: the mergeable state, its algebra, and the update of running statistics."""

import dataclasses
import pickle
from fractions import Fraction

import numpy as np
import pytest
import reference
from data import DTYPES, LAYOUTS, arrays, normals
from hypothesis import given
from hypothesis import strategies as st

import fastbn
from fastbn import Stats, batch_stats, merge_stats, update_running_stats


def assert_same(one, two):
    assert one.count == two.count
    np.testing.assert_array_equal(one.mean, two.mean)
    np.testing.assert_array_equal(one.m2, two.m2)


def some_stats(channels=3, count=10.0, seed=0):
    return Stats(count, normals(channels, seed=seed), count * normals(channels, seed=seed) ** 2)


@given(arrays())
def test_batch_stats_of_any_array(case):
    x, axis = case[0], case[-1]
    stats = batch_stats(x, channel_axis=axis)
    mean, var = reference.statistics(x, axis)
    assert stats.count == x.size // x.shape[axis]
    assert stats.mean.dtype == stats.m2.dtype == np.float64
    assert stats.mean.shape == stats.m2.shape == (x.shape[axis],)
    single = x.dtype.itemsize <= 4 and x.dtype.kind == "f"  # summed in float32
    eps = np.finfo(np.float32 if single else np.float64).eps * (1 if single else 64)
    assert np.all(np.abs(stats.mean - mean) <= eps * (np.abs(mean) + np.sqrt(var)))
    np.testing.assert_allclose(stats.var(), var, rtol=64 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_a_channel(shape, dtype):
    x = normals(shape, dtype)
    stats = batch_stats(x)
    assert stats.count == 1
    np.testing.assert_array_equal(stats.mean, x.ravel().astype(float))
    np.testing.assert_array_equal(stats.m2, 0)


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (2, 3, 0)])
def test_no_value_is_the_empty_state(shape):
    assert_same(batch_stats(np.empty(shape, np.float32)), Stats.empty(3))


def test_var_and_std():
    stats = Stats(4, np.zeros(2), np.array([12.0, 0.0]))
    np.testing.assert_array_equal(stats.var(), [3, 0])
    np.testing.assert_array_equal(stats.var(ddof=1), [4, 0])
    np.testing.assert_array_equal(stats.std(), np.sqrt([3, 0]))
    np.testing.assert_array_equal(stats.std(ddof=1), [2, 0])


@pytest.mark.parametrize(("count", "ddof"), [(0, 0), (1, 1), (0, 1), (1, 2), (0.5, 1)])
def test_var_is_nan_where_count_is_no_more_than_ddof(count, ddof):
    stats = Stats(count, np.zeros(2), np.ones(2))
    np.testing.assert_array_equal(stats.var(ddof=ddof), [np.nan, np.nan])
    np.testing.assert_array_equal(stats.std(ddof=ddof), [np.nan, np.nan])


def test_fractional_counts_are_weights():
    stats = Stats(2.5, np.zeros(1), np.ones(1))
    assert stats.count == 2.5
    assert stats.var()[0] == 0.4
    assert (stats + stats).count == 5


def test_frozen():
    stats = some_stats()
    for name in ("count", "mean", "m2"):
        with pytest.raises((AttributeError, dataclasses.FrozenInstanceError)):
            setattr(stats, name, 0)


def test_fields_are_float64_of_any_array_like():
    stats = Stats(3, [1, 2], (0, 4))
    assert isinstance(stats.count, float)
    assert stats.mean.dtype == stats.m2.dtype == np.float64
    np.testing.assert_array_equal(stats.mean, [1, 2])


def test_pickle():
    stats = some_stats()
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert_same(pickle.loads(pickle.dumps(stats, protocol)), stats)


def test_empty():
    empty = Stats.empty(4)
    assert empty.count == 0
    np.testing.assert_array_equal(empty.mean, np.zeros(4))
    np.testing.assert_array_equal(empty.m2, np.zeros(4))


# --- merging --------------------------------------------------------------------------------------


def test_merging_with_an_empty_one_changes_nothing():
    stats, empty = some_stats(), Stats.empty(3)
    for merged in (
        stats + empty,
        empty + stats,
        merge_stats([empty, stats, empty]),
        merge_stats([stats]),
    ):
        assert_same(merged, stats)
    assert_same(empty + empty, empty)


def test_merge_is_chans_formula():
    a, b = some_stats(seed=1), some_stats(seed=2, count=7.0)
    merged = a + b
    assert_same(merged, merge_stats([a, b]))
    assert merged.count == 17
    for c in range(3):
        delta = Fraction(b.mean[c]) - Fraction(a.mean[c])
        mean = Fraction(a.mean[c]) + delta * Fraction(7, 17)
        m2 = Fraction(a.m2[c]) + Fraction(b.m2[c]) + delta**2 * Fraction(70, 17)
        assert merged.mean[c] == pytest.approx(float(mean), rel=1e-15)
        assert merged.m2[c] == pytest.approx(float(m2), rel=1e-15)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.sampled_from([0.0, 1e3]))
def test_merge_of_splits_is_the_whole(sizes, offset):
    x = normals((sum(sizes), 3, 2), offset=offset)
    parts = [batch_stats(part) for part in np.split(x, np.cumsum(sizes)[:-1])]
    whole, merged = batch_stats(x), merge_stats(parts)
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(merged.m2, whole.m2, rtol=1e-11, atol=1e-15)
    backwards = merge_stats(parts[::-1])
    np.testing.assert_allclose(merged.mean, backwards.mean, rtol=1e-14, atol=1e-15)


def test_merge_of_distant_groups():
    """Batches of unequal size and mean: neither an unweighted mean nor a sum of variances."""
    near, far = normals((3, 2)), normals((17, 2), offset=100.0)
    merged = batch_stats(near) + batch_stats(far)
    both = np.concatenate([near, far])
    np.testing.assert_allclose(merged.mean, both.mean(axis=0), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(merged.var(), both.var(axis=0), rtol=1e-13)


def test_merge_does_not_overflow_or_write():
    a = Stats(10, np.full(2, 1e300), np.zeros(2))
    assert np.all((a + a).mean == 1e300)
    assert np.all((a + a).m2 == 0)
    np.testing.assert_array_equal(a.mean, 1e300)
    assert a.count == 10


# --- running statistics ---------------------------------------------------------------------------


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("layout", ["contiguous", "strided", "reversed", "byteswapped"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_update_in_place(dtype, layout, ddof):
    x = normals((30, 4, 2), offset=2.0)
    mean, var = (LAYOUTS[layout](np.full(4, v, dtype)) for v in (1.0, 3.0))
    expected = reference.running(mean, var, x, 0.25, ddof=ddof)
    update_running_stats(mean, var, batch_stats(x), 0.25, ddof=ddof)
    tolerance = 2 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(mean.astype(float), expected[0], rtol=tolerance)
    np.testing.assert_allclose(var.astype(float), expected[1], rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_and_numpy_move_statistics_to_the_same_bits(dtype):
    x, start = normals((9, 1000), dtype), normals((2, 1000), dtype, seed=7)
    moved = start.copy(), np.repeat(start, 2, axis=1)[:, ::2]  # NumPy takes the strided ones
    for pair in moved:
        fastbn.batch_norm(x, *pair, training=True, momentum=0.3)
    assert not np.array_equal(moved[0], start)
    np.testing.assert_array_equal(*moved)


def test_update_defaults():
    x = normals((30, 4))
    mean, var = np.zeros(4), np.ones(4)
    update_running_stats(mean, var, batch_stats(x))
    np.testing.assert_allclose(mean, 0.1 * x.mean(axis=0), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(var, 0.9 + 0.1 * x.var(axis=0, ddof=1), rtol=1e-13)


@pytest.mark.parametrize("count", [0.5, 1.0])
def test_update_with_one_value_takes_the_population_variance(count):
    mean, var = np.zeros(2), np.full(2, 7.0)
    update_running_stats(mean, var, Stats(count, np.ones(2), np.full(2, 3 * count)), 1.0)
    np.testing.assert_array_equal(mean, 1)
    np.testing.assert_array_equal(var, 3)


def test_update_with_an_empty_batch_changes_nothing():
    mean, var = np.ones(3), np.full(3, 2.0)
    for nonfinite in ("propagate", "skip", "raise"):
        update_running_stats(mean, var, Stats.empty(3), 1.0, nonfinite=nonfinite)
    np.testing.assert_array_equal(mean, 1)
    np.testing.assert_array_equal(var, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nonfinite(bad):
    x = normals((30, 4))
    x[7, 1] = x[3, 3] = bad
    stats = batch_stats(x)
    mean, var = np.zeros(4), np.ones(4)
    update_running_stats(mean, var, stats, nonfinite="skip")
    np.testing.assert_array_equal(mean, 0)
    np.testing.assert_array_equal(var, 1)
    with pytest.raises(FloatingPointError, match=r"1\D+3\b"):
        update_running_stats(mean, var, stats, nonfinite="raise")
    np.testing.assert_array_equal(mean, 0)
    np.testing.assert_array_equal(var, 1)
    update_running_stats(mean, var, stats, nonfinite="propagate")
    assert np.isfinite(mean).tolist() == [True, False, True, False]
    assert np.isfinite(var).tolist() == [True, False, True, False]
    clean = batch_stats(x[:, ::2])
    np.testing.assert_allclose(mean[::2], 0.1 * clean.mean, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_nonfinite_lets_finite_statistics_pass(nonfinite):
    mean, var = np.zeros(3), np.ones(3)
    update_running_stats(mean, var, some_stats(), nonfinite=nonfinite)
    assert np.all(mean != 0)
    assert fastbn.Stats is Stats


@pytest.mark.parametrize("offset", [0.0, 3.0, 100.0])
@pytest.mark.parametrize(
    "shape",
    [(3, 64), (8, 64), (40, 200), (4, 8, 6, 6), (32, 64, 7, 7), (16, 32, 30, 30), (100_000, 8)],
    ids=str,
)
def test_statistics_of_float32_are_as_exact_as_the_docstring_says(shape, offset):
    x = normals(shape, np.float32, offset=offset)
    mine, exact = batch_stats(x), batch_stats(x.astype(np.float64))
    many = exact.count >= 1000
    assert np.max(np.abs(mine.mean - exact.mean) / exact.std()) <= (5e-8 if many else 1e-7)
    assert np.max(np.abs(mine.var() / exact.var() - 1)) <= (5e-8 if many else 2.5e-7)


@pytest.mark.parametrize("axis", [0, 1, -1, (0, 2), (2, 1)])
@pytest.mark.parametrize("place", ["first", "last"])
def test_overflow_beside_channels_that_are_not_finite(axis, place, monkeypatch):
    monkeypatch.setattr(fastbn.stats, "_AGAIN", 8)  # few values at once
    x = normals((4, 4, 6, 4))
    axes = axis if isinstance(axis, tuple) else (axis,)
    channels = np.moveaxis(x, axes, range(len(axes)))  # a view
    flat = [channels[i] for i in np.ndindex(channels.shape[: len(axes)])]
    end = (0,) * flat[0].ndim if place == "first" else (-1,) * flat[0].ndim
    flat[1][end], flat[2][end] = np.nan, np.inf
    flat[0][...] = np.where(np.arange(flat[0].size).reshape(flat[0].shape) % 2, 1e300, -1e300)
    found = fastbn.batch_stats(x, channel_axis=axis)
    assert found.mean[0] == 0
    assert np.isinf(found.m2[0])
    assert not np.isfinite(found.mean[1:3]).any()
    assert np.isnan(found.m2[1:3]).all()
    fine = [values.mean() for values in flat[3:]]
    np.testing.assert_allclose(found.mean[3:], fine, rtol=1e-12, atol=1e-15)


def test_every_axis_one_of_channels():
    found = fastbn.batch_stats(np.array([[np.nan, 1.0, 1e300]]), channel_axis=(0, 1))
    np.testing.assert_array_equal(found.mean, [np.nan, 1.0, 1e300])
