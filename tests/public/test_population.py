"""Statistics of many batches, one in memory at a time; how far statistics have moved."""

import math
import sys
import weakref
from fractions import Fraction

import numpy as np
import pytest
import reference
from agreement import ulp
from data import normals
from hypothesis import given
from hypothesis import strategies as st
from process import run_python

from fastbn import Stats, batch_stats, covariate_shift, merge_stats, population_stats


def digits(stats):
    return stats.to_array().tolist()


def cut(x, sizes):
    return np.split(x, np.cumsum(sizes)[:-1])


# --- population statistics ------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e9])
def test_doubling_batches_are_as_exact_as_the_whole(offset):
    sizes = [2, *(2**k for k in range(1, 14))]
    x = normals((sum(sizes), 2), offset=offset)
    found, whole = population_stats(cut(x, sizes)), batch_stats(x)
    assert found.count == len(x)
    for c in range(2):
        mean, var = reference.exact_statistics(x[:, c])
        unit = ulp(np.float64, max(abs(mean), Fraction(float(var) ** 0.5)))
        errors = [abs(Fraction(s.mean[c]) - mean) / unit for s in (found, whole)]
        assert errors[0] <= max(2 * errors[1], 1)
        errors = [abs(Fraction(s.var()[c]) / var - 1) for s in (found, whole)]
        assert errors[0] <= max(2 * errors[1], 2**-51)


def test_doubling_batches_of_float32():
    sizes = [2, *(2**k for k in range(1, 14))]
    x = normals((sum(sizes), 2), np.float32, offset=3.0)
    found, exact = population_stats(iter(cut(x, sizes))), batch_stats(x.astype(float))
    np.testing.assert_allclose(found.mean, exact.mean, rtol=0, atol=3e-8 * 3)
    np.testing.assert_allclose(found.var(), exact.var(), rtol=3e-8)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.booleans())
def test_any_sizes_with_and_without_weights(sizes, weighted):
    x = normals((sum(sizes), 3, 2), offset=1e3)
    weights = np.arange(2.0 * sum(sizes)).reshape(-1, 2) % 3
    batches = cut(x, sizes)
    if weighted:
        hidden = np.where(weights[:, None] > 0, x, np.nan)
        batches = list(zip(cut(hidden, sizes), cut(weights, sizes), strict=True))
    mean, var = reference.statistics(x, 1, weights if weighted else None)
    found = population_stats(batches)
    assert found.count == (weights.sum() if weighted else x.size // 3)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-13)
    np.testing.assert_allclose(found.m2, var * found.count, rtol=1e-9, atol=1e-20)


def test_it_is_the_sum_of_the_batches():
    batches = [normals((k, 4, 3), offset=1e6, seed=k) for k in range(1, 9)]
    expected = Stats.empty(4)
    for batch in batches:
        expected = expected + batch_stats(batch)
    assert digits(population_stats(batches)) == digits(expected)
    mixed = [(b, np.ones(b[:, 0].shape, bool)) if len(b) % 2 else b for b in batches]
    assert population_stats(mixed).count == expected.count


@pytest.mark.parametrize("axis", [0, 2, -1])
def test_any_channel_axis(axis):
    batches = list(normals((5, 3, 4, 6)))
    expected = merge_stats(batch_stats(b, channel_axis=axis) for b in batches)
    found = population_stats(batches, channel_axis=axis)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-13)


def test_iterables_of_every_kind(tmp_path):
    x = normals((6, 5, 3))
    mapped = np.memmap(tmp_path / "x", np.float64, "w+", shape=x.shape)
    mapped[:] = x
    expected = digits(population_stats(list(x)))
    for batches in (x, mapped, iter(x), (b for b in x), tuple(x), dict(enumerate(x)).values()):
        assert digits(population_stats(batches)) == expected
    assert digits(population_stats(b.tolist() for b in x)) == expected


def test_empty_batches_count_for_nothing():
    x, none = normals((7, 3), offset=1e6), np.empty((0, 3))
    assert digits(population_stats([none, x, none])) == digits(batch_stats(x))
    assert digits(population_stats([(x, np.zeros(7)), none])) == digits(Stats.empty(3))
    with pytest.raises(ValueError, match="batch 0 has 4, batch 1 has 3"):
        population_stats([np.empty((0, 4)), x])


class Batch(np.ndarray):
    """An array of which there may be weak references, as of any subclass."""


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("progress", [False, True])
def test_no_batch_is_kept_when_the_next_is_asked_for(progress, weighted):
    alive = []

    class Iterator:
        """A generator holds what it yields; this one does not."""

        def __init__(self):
            self.left = 4

        def __iter__(self):
            return self

        def __next__(self):
            assert [batch for batch in alive if batch() is not None] == []
            if not self.left:
                raise StopIteration
            self.left -= 1
            x, weights = (np.ones(shape).view(Batch) for shape in ((5, 3), (5,)))
            alive.extend([weakref.ref(x), weakref.ref(weights)])
            return (x, weights) if weighted else x

    assert population_stats(Iterator(), progress=progress).count == 20
    assert len(alive) == 8


def test_an_error_of_the_iterable_is_its_own():
    def batches():
        yield np.ones((5, 3))
        raise ValueError("no such file")

    with pytest.raises(ValueError, match=r"^no such file$"):
        population_stats(batches())


def test_an_error_in_a_batch_keeps_its_kind():
    with pytest.raises(np.exceptions.AxisError, match=r"^batch 1: channel_axis should be"):
        population_stats([np.ones((2, 3, 4)), np.ones((2, 3))], channel_axis=2)


BAR = """
import io, sys
import numpy as np
import rich.console
import fastbn

class Terminal(io.StringIO):
    def isatty(self):
        return True

sys.stderr = Terminal()
batches = [np.ones((5, 3))] * 4
fastbn.population_stats({batches}, progress={progress})
print("{shown}" in sys.stderr.getvalue(), sys.stdout.isatty())
"""


@pytest.mark.parametrize(
    ("batches", "progress", "shown", "seen"),
    [
        ("batches", True, "100%", True),
        ("iter(batches)", True, "100%", True),
        ("(b for b in batches)", True, "batches", True),
        ("batches", False, "batches", False),
    ],
)
def test_bar(batches, progress, shown, seen):
    code = BAR.format(batches=batches, progress=progress, shown=shown)
    assert run_python(code, TERM="xterm", FORCE_COLOR="1").split() == [str(seen), "False"]


def test_without_rich_there_is_no_bar(monkeypatch, capsys):
    for name in ("rich", "rich.console", "rich.progress"):
        monkeypatch.setitem(sys.modules, name, None)
    assert population_stats([np.ones((5, 3))], progress=True).count == 5
    assert capsys.readouterr() == ("", "")


# --- covariate shift ------------------------------------------------------------------------------


def jeffreys(m1, v1, m2, v2):
    """By hand, in exact fractions."""
    m1, v1, m2, v2 = map(Fraction, (m1, v1, m2, v2))
    return float(((v1 - v2) ** 2 / (v1 * v2) + (m1 - m2) ** 2 * (1 / v1 + 1 / v2)) / 2)


means, variances = st.floats(-1e6, 1e6), st.floats(1e-6, 1e6)


@given(means, variances, means, variances, st.sampled_from([1.0, 3.0, 1e6]))
def test_shift_is_the_formula(m1, v1, m2, v2, count):
    one, two = Stats(1, [m1, m1], [v1, v1]), Stats(1, [m2, m1], [v2, v1])
    shift = covariate_shift(one, two)
    assert shift.dtype == np.float64
    assert shift[0] == pytest.approx(jeffreys(m1, v1, m2, v2), rel=1e-13, abs=1e-30)
    assert shift[1] == 0
    np.testing.assert_array_equal(covariate_shift(two, one), shift)
    many = Stats(count, [m1, m1], [count * v1, count * v1])
    np.testing.assert_allclose(covariate_shift(many, two), shift, rtol=1e-9, atol=1e-30)


def test_shift_is_that_of_two_kullback_leibler_divergences():
    """Half of each way's divergence, integrated: their sum is the score."""
    x = np.linspace(-30, 30, 60_001)

    def log_density(m, v):
        return -((x - m) ** 2) / (2 * v) - math.log(2 * math.pi * v) / 2

    p, q = log_density(0.5, 2.0), log_density(-1.0, 0.7)
    both = np.sum((np.exp(p) - np.exp(q)) * (p - q)) * (x[1] - x[0])
    found = covariate_shift(Stats(1, [0.5], [2.0]), Stats(1, [-1.0], [0.7]))
    assert found[0] == pytest.approx(both, rel=1e-9)


def test_constant_channels():
    one = Stats(2, [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 2.0])
    two = Stats(2, [1.0, 2.0, 1.0, 1.0], [0.0, 0.0, 2.0, 0.0])
    np.testing.assert_array_equal(covariate_shift(one, two), [0, *[math.inf] * 3])
    np.testing.assert_array_equal(covariate_shift(one, one), 0)


@pytest.mark.parametrize("constant", [0, 1, 2])
def test_nan_stays_nan(constant):
    v1, v2 = (0.0 if constant else 1.0), (0.0 if constant == 2 else 1.0)
    one = Stats(1, [math.nan, 1.0, 1.0], [v1, math.nan, v1])
    two = Stats(1, [1.0, 1.0, math.nan], [v2, v2, v2])
    assert np.isnan(covariate_shift(one, two)).all()
    assert np.isnan(covariate_shift(two, one)).all()


def test_empty_statistics_have_nothing_to_compare():
    stats, empty = Stats(2, [1.0, 2.0], [0.0, 1.0]), Stats.empty(2)
    for pair in ((stats, empty), (empty, stats), (empty, empty)):
        assert np.isnan(covariate_shift(*pair)).all()
    assert covariate_shift(Stats.empty(0), Stats.empty(0)).shape == (0,)


def test_shift_of_what_is_small_and_large():
    for unit in (1e-150, 1e-100, 1.0, 1e100, 1e150):
        one = Stats(1, [unit], [unit * unit])
        two = Stats(1, [2 * unit], [2 * unit * unit])
        assert covariate_shift(one, two)[0] == pytest.approx(1.0, rel=1e-13)
    far = Stats(1, [0.0, 0.0], [1e300, math.inf])
    near = Stats(1, [0.0, 0.0], [1e-300, 1.0])
    np.testing.assert_array_equal(covariate_shift(far, near), math.inf)


def test_shift_sees_what_is_rounded_off_the_means():
    """At 1e9 a mean's last digit is 1e-7, where a deviation may be 1e-7, too."""
    x = np.array([1e9, 1e9, 1e9, np.nextafter(1e9, 2e9)])[:, None]
    one, two = batch_stats(x), batch_stats(x[1:])
    gap = np.spacing(1e9)
    m1, v1, m2, v2 = gap / 4, gap**2 * 3 / 16, gap / 3, gap**2 * 2 / 9
    assert one.mean[0] == two.mean[0]
    assert covariate_shift(one, two)[0] == pytest.approx(jeffreys(m1, v1, m2, v2), rel=1e-9)
