"""Merging statistics: every digit against exact fractions, and what overflows or is not finite."""

import copy
import functools
import math
import operator
import pickle
from fractions import Fraction

import numpy as np
import pytest
import reference
from agreement import ulp
from data import LAYOUTS, normals
from hypothesis import given
from hypothesis import strategies as st

import fastbn
from fastbn import Stats, batch_stats, merge_stats

# Whatever the merge is: of all at once, or one after the other.
WAYS = {
    "merge_stats": merge_stats,
    "+": lambda parts: functools.reduce(operator.add, parts),
}
each_way = pytest.mark.parametrize("merge", WAYS.values(), ids=WAYS)


def exact_parts(parts):
    """Exact mean and variance of each channel, all digits of the parts taken as exact."""
    arrays = np.array([part.to_array() for part in parts])
    counts = [Fraction(a) + Fraction(b) for a, b in arrays[:, :2].tolist()]
    rows = arrays[:, 2:].reshape(len(parts), 4, -1)
    for mean, mean_low, m2, m2_low in rows.transpose(2, 1, 0).tolist():
        means = [Fraction(a) + Fraction(b) for a, b in zip(mean, mean_low, strict=True)]
        m2s = [Fraction(a) + Fraction(b) for a, b in zip(m2, m2_low, strict=True)]
        yield reference.exact_merge(counts, means, m2s)


def errors(stats, truth):
    """Largest errors: of means in ulps of max(|mean|, std), of variances relative to them."""
    means, variances = [], []
    for mean, var, (exact_mean, exact_var) in zip(stats.mean, stats.var(), truth, strict=True):
        size = max(abs(exact_mean), Fraction(float(exact_var) ** 0.5))
        means.append(abs(Fraction(mean) - exact_mean) / ulp(np.float64, size))
        variances.append(abs(Fraction(var) - exact_var) / (exact_var or 1))
    return float(max(means)), float(max(variances))


def assert_exact(stats, truth):
    mean, var = errors(stats, truth)
    assert mean <= 1
    assert var <= 1e-14


def digits(stats):
    return stats.to_array().tolist()


def some_parts(number, offset, seed=0):
    """Of one to eight values in each of two channels, the second one far from the first."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, number)
    x = offset + rng.normal(size=(sizes.sum(), 2)) * [1.0, 1e-3]
    return [batch_stats(part) for part in np.split(x, sizes.cumsum()[:-1])]


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e4, 1e9])
@pytest.mark.parametrize("number", [2, 3, 10, 1000, 10_000])
def test_merging_is_exact_in_any_order(number, offset):
    parts = some_parts(number, offset)
    truth = list(exact_parts(parts))
    shuffled = [parts[i] for i in np.random.default_rng(1).permutation(number)]
    for merge in WAYS.values():
        for order in (parts, parts[::-1], shuffled):
            assert_exact(merge(order), truth)


def test_merging_of_merged_parts_is_exact():
    """Their low parts count: without them the mean is off where it was rounded."""
    parts = some_parts(3000, 1e9)
    thirds = [merge_stats(parts[i::3]) for i in range(3)]
    for merge in WAYS.values():
        assert_exact(merge(thirds), list(exact_parts(parts)))
    rounded = [Stats(part.count, part.mean, part.m2) for part in parts]
    with pytest.raises(AssertionError):
        assert_exact(merge_stats(rounded), list(exact_parts(parts)))


@each_way
@given(
    st.lists(
        st.tuples(
            st.floats(1e-3, 1e6),
            st.floats(-1e9, 1e9, allow_subnormal=False),
            st.floats(1e-9, 1e9),
        ),
        min_size=2,
        max_size=30,
    )
)
def test_merging_of_anything_is_exact(merge, fields):
    parts = [Stats(count, [mean, 1e9 + mean], [m2, 0.0]) for count, mean, m2 in fields]
    merged = merge(parts)
    count = sum(Fraction(part.count) for part in parts)
    assert merged.count == float(count)
    assert_exact(merged, list(exact_parts(parts)))


@pytest.mark.parametrize("unit", [1e-300, 1e-200, 1e200, 1e300])
@each_way
def test_the_unit_of_counts_means_nothing(merge, unit):
    parts = some_parts(9, 1e3)
    weighted = [Stats(unit * part.count, part.mean, part.m2 * unit) for part in parts]
    assert_exact(merge(weighted), list(exact_parts(weighted)))


@each_way
def test_channels_do_not_mix(merge):
    """Blocks of one part, and of several, whatever the number of channels."""
    for channels in (0, 1, 5, 100_000):
        rows = normals((7, channels), offset=3.0)
        merged = merge([Stats(k + 1.0, row, row * row) for k, row in enumerate(rows)])
        assert merged.mean.shape == (channels,)
        alone = [Stats(k + 1.0, row[:1], row[:1] ** 2) for k, row in enumerate(rows)]
        np.testing.assert_array_equal(merged.mean[:1], merge(alone).mean[:channels])
        weights = np.arange(1.0, 8.0)
        np.testing.assert_allclose(merged.mean, weights @ rows / 28, rtol=1e-13, atol=1e-13)


def test_merging_in_blocks_is_merging(monkeypatch):
    parts = some_parts(101, 1e6)
    truth = list(exact_parts(parts))
    for room in (1, 6, 20, 64):
        monkeypatch.setattr("fastbn._doubled.ROOM", room)
        assert_exact(merge_stats(iter(parts)), truth)


# --- end to end -----------------------------------------------------------------------------------


def pieces(x, sizes):
    return np.split(x, np.cumsum(sizes)[:-1])


SIZES = {
    "single": [1] * 300,
    "pairs": [2] * 300,
    "uneven": [1, 7, 0, 12, 200, 3, 77],
    "doubling": [2, *(2**k for k in range(1, 10))],
    "a hundred": [120] * 100,
}


@each_way
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e4, 1e8, 1e9])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_float64_parts_are_as_exact_as_the_whole(sizes, offset, merge):
    x = normals((sum(sizes), 2), offset=offset)
    truth = [reference.exact_statistics(values) for values in x.T]
    mean, var = errors(merge([batch_stats(part) for part in pieces(x, sizes)]), truth)
    whole_mean, whole_var = errors(batch_stats(x), truth)
    assert mean <= max(2 * whole_mean, 1)
    assert var <= max(2 * whole_var, 2 * np.finfo(float).eps)


@each_way
@pytest.mark.parametrize("offset", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("size", [1, 2, 7, 120, 1000])
def test_float32_parts(size, offset, merge):
    x = normals((max(20 * size, 2000), 2), np.float32, offset=offset)
    truth = [reference.exact_statistics(values) for values in x.T]
    merged = merge([batch_stats(part) for part in pieces(x, [size] * (len(x) // size))])
    for mean, var, (exact_mean, exact_var) in zip(merged.mean, merged.var(), truth, strict=True):
        assert abs(mean - exact_mean) <= 3e-8 * max(abs(exact_mean), float(exact_var) ** 0.5)
        assert abs(var - exact_var) <= 3e-8 * exact_var


def test_case_1e8_beside_single_values():
    a = batch_stats(np.full((5000, 1), 1e8))
    b = batch_stats(np.full((1, 1), math.log(1e-5)))
    parts = [a] + [b] * 5000
    truth = list(exact_parts(parts))
    for merge in WAYS.values():
        assert_exact(merge(parts), truth)
        assert_exact(merge(parts[::-1]), truth)


def test_case_two_thirds():
    v = np.array([1.0, 2, 3] * 100) + 1e8
    parts = [batch_stats(v[i : i + 50, None]) for i in range(0, 300, 50)]
    for merge in WAYS.values():
        assert merge(parts).var()[0] == pytest.approx(2 / 3, rel=2e-16)


# --- beyond float64 -------------------------------------------------------------------------------


@each_way
def test_counts_beyond_float64_are_infinite(merge):
    merged = merge([Stats(1e308, [1.0, 1.0], [0.0, 8.0]), Stats(1e308, [1.0, 3.0], [0.0, 8.0])])
    assert merged.count == math.inf
    np.testing.assert_array_equal(merged.mean, [1, 2])
    again = merge([merged, merged, merged, Stats(1, [1.0, 2.0], [0.0, 1.0])])
    assert again.count == math.inf
    np.testing.assert_array_equal(again.mean, [1, 2])
    np.testing.assert_array_equal(again.m2, [0, math.inf])
    again.var()  # warns of nothing


@each_way
def test_means_near_the_end_of_float64(merge):
    means = np.array([[1.7e308, -1.7e308], [-1.7e308, -1.7e308]])
    merged = merge([Stats(2, row, [1.0, 1.0]) for row in means])
    np.testing.assert_array_equal(merged.mean, [0, -1.7e308])
    np.testing.assert_array_equal(merged.m2, [math.inf, 2])
    merged = merge([Stats(k, [s * 1.5e308], [0.0]) for k, s in ((1e-307, 1), (3e-307, -1))])
    np.testing.assert_allclose(merged.mean, -0.75e308, rtol=1e-15)
    np.testing.assert_allclose(merged.m2, 3e-307 / 4 * 3e308 * 3e308, rtol=1e-14)


@each_way
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_stays_in_its_channel(merge, bad):
    x = normals((4, 5, 3), offset=1e6)
    clean = merge([batch_stats(part) for part in x])
    x[1, 2, 1] = bad
    merged = merge([batch_stats(part) for part in x])
    np.testing.assert_array_equal(merged.mean[1], bad)
    assert np.isnan(merged.m2[1])
    mine, other = merged.to_array()[2:].reshape(4, 3), clean.to_array()[2:].reshape(4, 3)
    np.testing.assert_array_equal(mine[:, ::2], other[:, ::2])
    assert (merged + merged).mean[1] == pytest.approx(bad, nan_ok=True)
    opposite = merged + Stats(1, -merged.mean, merged.m2)
    assert np.isnan(opposite.mean[1])
    assert np.isfinite(opposite.mean[::2]).all()


@each_way
def test_an_infinite_variance_leaves_the_mean(merge):
    merged = merge([Stats(1, [1.0], [math.inf]), Stats(2, [4.0], [1.0]), Stats(1, [3.0], [0.0])])
    assert digits(merged) == [4, 0, 3, 0, math.inf, 0]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_batches_near_the_end_of_float64(axis, weighted):
    """9e307 beside -9e307, and its like, in channels between ordinary ones."""
    x = normals((6, 7, 4), offset=3.0)
    x, weights = x.copy(), np.ones((6, 7, 4)).swapaxes(0, axis)[0] if weighted else None
    channels = np.moveaxis(x, axis, 0)
    half = (np.arange(channels[0].size) % 2 == 0).reshape(channels[0].shape)
    channels[0] = np.where(half, 9e307, -9e307)
    channels[1] = np.where(half, 1e300, -1e300)
    channels[2] = np.where(half, 1.7e308, 0.0)
    ordinary = batch_stats(np.ascontiguousarray(channels[3:]), channel_axis=0)
    weights = np.ones(channels[0].shape) if weighted else None
    for lay in ("contiguous", "strided", "byteswapped"):
        stats = batch_stats(LAYOUTS[lay](x), channel_axis=axis, weights=weights)
        expected = [0, 0, 0.85e308]
        np.testing.assert_allclose(stats.mean[:3] / 1e300, np.divide(expected, 1e300), atol=1e-8)
        np.testing.assert_array_equal(stats.var()[:3], math.inf)
        np.testing.assert_allclose(stats.mean[3:], ordinary.mean, rtol=1e-14)


def test_cases_near_the_end_of_float64():
    for values, var in (([9e307, -9e307], math.inf), ([1e300, -1e300], math.inf)):
        stats = batch_stats(np.array(values)[:, None])
        assert stats.mean[0] == 0
        assert stats.var()[0] == var
    x = np.array([[9e307, 1.0], [-3e307, 2.0], [np.nan, np.nan]])
    stats = batch_stats(x, weights=[1.0, 3.0, 0.0])
    np.testing.assert_allclose(stats.mean / 1e300, [0, 1.75e-300], atol=1e-8)
    np.testing.assert_array_equal(stats.var(), [math.inf, 0.1875])


@pytest.mark.parametrize("number", [2, 2000])
def test_variances_that_fit_though_their_squares_do_not(number):
    """m2 is finite where sums of squares about a first guess of the mean are not."""
    x = np.full((number, 1), 2e153)
    x[0] = -2e153
    x = np.concatenate([x, x * 1e-300], axis=1)
    stats = batch_stats(x)
    truth = [reference.exact_statistics(values) for values in x.T]
    assert_exact(stats, truth)


def test_what_is_rounded_off_a_mean_near_the_end_of_float64():
    x = np.array([1.7, -1.7, 1.1, 1.3, -0.2, 0.7, 0.9])[:, None] * 1e308
    mean, low = map(Fraction, digits(batch_stats(x))[2:4])
    truth = reference.exact_statistics(x)[0]
    assert abs(mean + low - truth) < abs(mean - truth)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_channels_that_hold_infinity_stay_what_they_are(bad):
    x = np.array([[1e300, 1e300], [-1e300, 1.0], [bad, 3.0]])
    stats = batch_stats(x)
    assert not np.isfinite(stats.mean[0])
    assert np.isnan(stats.m2[0])
    assert stats.m2[1] == math.inf
    assert stats.mean[1] == pytest.approx(1e300 / 3, rel=1e-15)


def test_channels_are_summed_again_a_few_at_a_time(monkeypatch):
    x = normals((9, 50)) * np.where(np.arange(50) % 3, 1.0, 1e300)
    expected = batch_stats(x)
    monkeypatch.setattr("fastbn.stats._AGAIN", 20)
    stats = batch_stats(x)
    np.testing.assert_allclose(stats.mean, expected.mean, rtol=1e-13)
    np.testing.assert_allclose(stats.m2, expected.m2, rtol=1e-13)


# --- what keeps the digits ------------------------------------------------------------------------


def merged_far_from_zero():
    return merge_stats(some_parts(50, 1e9))


def test_a_batch_keeps_what_is_rounded_off_its_mean():
    for dtype in (np.float32, np.float64):
        x = normals((30, 2, 3), dtype, offset=1e6)
        mean, low = batch_stats(x).to_array()[2:6].reshape(2, 2)
        assert np.all(low != 0)
        assert np.all(mean + low == mean)
        np.testing.assert_array_equal(fastbn.forward(x)[1].stats.to_array()[4:6], low)
    exact = [reference.exact_statistics(x[:, c])[0] for c in range(2)]
    for high, rest, truth in zip(mean, low, exact, strict=True):
        assert abs(Fraction(high) + Fraction(rest) - truth) < abs(Fraction(high) - truth) / 1000


@pytest.mark.parametrize(
    "keep",
    [copy.copy, copy.deepcopy, lambda s: Stats.from_array(s.to_array())]
    + [lambda s, p=p: pickle.loads(pickle.dumps(s, p)) for p in (2, pickle.HIGHEST_PROTOCOL)],
    ids=["copy", "deepcopy", "array", "pickle 2", "pickle"],
)
def test_every_digit_is_kept(keep):
    stats = merged_far_from_zero()
    kept = keep(stats)
    assert digits(kept) == digits(stats)
    assert digits(kept + stats) == digits(stats + stats)
    assert np.all(stats.to_array()[4:6] != 0)
    for array in (kept.mean, kept.m2):
        assert not array.flags.writeable


def test_saved_statistics_are_those_that_were_given():
    stats = merged_far_from_zero()
    x = normals((5, 2), offset=1e9)
    assert digits(fastbn.forward(x, stats=stats)[1].stats) == digits(stats)
    pair = fastbn.forward(x, stats=(stats.mean, stats.var()))[1].stats
    assert digits(pair) == digits(Stats(1, stats.mean, stats.var()))


def test_empty_ones_keep_every_digit_of_the_other():
    stats, empty = merged_far_from_zero(), Stats.empty(2)
    for merged in (stats + empty, empty + stats, merge_stats([empty, stats, empty])):
        assert digits(merged) == digits(stats)


@each_way
def test_sums_keep_what_is_rounded_off(merge):
    """In counts, means and sums of squares: merged parts merge as exactly as the first."""
    merged = merge([Stats(0.1, [5.0], [0.1])] * 10_000)
    for part, number in ((merged, 10_000), (merged + merged, 20_000)):
        count, count_low, mean, mean_low, m2, m2_low = map(Fraction, digits(part))
        assert count + count_low == number * Fraction(0.1)
        assert mean + mean_low == 5
        assert abs((m2 + m2_low) / (number * Fraction(0.1)) - 1) < 2.0**-100


def test_an_array_is_copied_both_ways():
    stats = merged_far_from_zero()
    array = stats.to_array()
    assert array.dtype == np.float64
    assert array.shape == (10,)
    again = Stats.from_array(array)
    array[:] = 7.0
    assert digits(again) == digits(stats)
    assert digits(Stats.from_array(stats.to_array().astype(">f8"))) == digits(stats)
    assert digits(Stats.from_array(Stats.empty(0).to_array())) == [0, 0]


def test_repr_shows_three_fields():
    assert repr(Stats(2, [0.5], [1])) == "Stats(count=2.0, mean=array([0.5]), m2=array([1.]))"
