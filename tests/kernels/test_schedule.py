"""How calls are cut: neither the kind of stores, nor slabs of channels, change any bit."""

import numpy as np
import options
import pytest
from data import DTYPES, HALVES, channels_last, problem
from process import run_python
from shapes import STORED

import fastbn
from fastbn._arrays import layout
from fastbn._kernels import schedule


def results(x, dy, weight, bias):
    y, saved = fastbn.forward(x, weight, bias)
    return y, *fastbn.backward(dy, saved)[:3], saved.stats.mean, saved.stats.m2


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_nontemporal_stores_give_the_same_bits(dtype, request):
    cases = {name: problem(shape, dtype) for name, shape in STORED.items()}
    plain = {name: results(*arrays) for name, arrays in cases.items()}
    request.getfixturevalue("small_cache")
    for name, arrays in cases.items():
        plan = layout.see(arrays[0], 1)[1].plan
        assert plan.cut["aligned"]
        assert plan.walk(1, 1, True).nontemporal
        for one, two in zip(plain[name], results(*arrays), strict=True):
            np.testing.assert_array_equal(one, two)
    x, dy, weight, bias = cases["rows"]
    y, dx, *_ = results(channels_last(x), channels_last(dy), weight, bias)
    np.testing.assert_allclose(y, plain["rows"][0], atol=1e-5)
    np.testing.assert_allclose(dx, plain["rows"][1], atol=1e-5)


def walks(kind, units=None):
    """What takes the place of `Plan.walk`: whole arrays, or so many units at a time."""

    def choose(plan, inputs, threads, both):
        share = -(-plan.cut["units"] // threads)
        slab = share if units is None else min(units, share)
        return schedule.Walk(slab if kind != "whole" and both and plan.in_slabs else 0, False)

    return choose


# Runs, short runs, few rows of many columns; runs that are written as columns, and the reverse.
SLICED = [
    *((6, 40, 9, 16), (5, 37, 17, 31), (3, 64, 1200), (1, 50, 140), (1, 50, 30_001)),
    *((3, 700, 5), (1, 999, 9), (7, 33, 2), (6, 3000), (23, 4100), (13, 1400, 3), (9, 500, 8)),
]


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SLICED)
def test_slabs_give_the_same_bits(monkeypatch, shape, dtype, threads):
    monkeypatch.setattr(schedule, "LARGE", 1)
    x, dy, weight, bias = problem(shape, dtype, offset=5.0)
    x[0, 3] += 1e6  # outliers, which are summed once more
    x[0, 7] *= np.asarray(1e25, dtype)
    x[0, 11] = np.nan
    fastbn.set_num_threads(threads)

    def digest(choose):
        with layout.force_walks(choose):
            y, saved = fastbn.forward(x, weight, bias)
            assert saved.layout.plan.in_slabs
            grads = fastbn.backward(dy, saved)
            again = dy.copy()
            fastbn.backward(again, saved, out=again)
        np.testing.assert_array_equal(again, grads.dx)
        return [y, saved.stats.mean, saved.stats.m2, *grads]

    whole = digest(walks("whole"))
    for units in (1, 3, None):
        for one, two in zip(whole, digest(walks("slabs", units)), strict=True):
            np.testing.assert_array_equal(one, two)
    assert np.isnan(whole[0][:, 11]).all()
    assert np.isfinite(np.delete(whole[0], 11, axis=1)).all()


OPTIONS = {
    "none": (None, "none", False),
    "weights": ("real", "none", False),
    "all": ("mask", "leaky", True),
}


def with_options(shape, dtype, names):
    """What a batch gives with options, in words: NaN is NaN."""
    x, dy, weight, bias = problem(shape, dtype, offset=5.0)
    if shape[1] > 11:
        x[0, 11] = np.nan
        x[0, 7] *= np.asarray(1e3, dtype)
    settings = options.settings(shape, *names, dtype=dtype)
    y, saved = fastbn.forward(x, weight, bias, **settings)
    results = [y, saved.stats.mean, saved.stats.m2, *fastbn.backward(dy, saved)]
    return [a.astype(np.float64) for a in results if a is not None]


def assert_same(one, two):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("names", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", SLICED)
def test_slabs_give_the_same_bits_with_options(monkeypatch, shape, names, dtype, threads):
    monkeypatch.setattr(schedule, "LARGE", 1)
    fastbn.set_num_threads(threads)
    with layout.force_walks(walks("whole")):
        whole = with_options(shape, dtype, names)
    for units in (1, 3, None):
        with layout.force_walks(walks("slabs", units)):
            assert_same(with_options(shape, dtype, names), whole)


@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("names", OPTIONS.values(), ids=OPTIONS)
def test_nontemporal_stores_give_the_same_bits_with_options(names, dtype, request):
    plain = {name: with_options(shape, dtype, names) for name, shape in STORED.items()}
    request.getfixturevalue("small_cache")
    for name, shape in STORED.items():
        assert_same(with_options(shape, dtype, names), plain[name])


MANY = """
import numpy as np
from data import problem
import fastbn
from fastbn._arrays import layout
from fastbn._kernels import schedule

schedule.LARGE = 1
for shape in ((2, 130, 600), (3, 900, 5), (5, 9000)):
    x, dy, weight, bias = problem(shape, np.float32)
    results = []
    for units in (0, 1, 1 << 30):  # whole arrays, then slabs
        choose = lambda plan, inputs, threads, both: schedule.Walk(
            min(units, -(-plan.cut["units"] // threads)) if both else 0, False)
        with layout.force_walks(choose):
            for threads in (1, 2, 16, 64):
                fastbn.set_num_threads(threads)
                y, saved = fastbn.forward(x, weight, bias)
                results.append([y, *fastbn.backward(dy, saved)])
    for result in results:
        assert all(map(np.array_equal, result, results[0]))
print("done")
"""


def test_slabs_give_the_same_bits_on_many_cores():
    assert run_python(MANY, NUMBA_NUM_THREADS="64") == "done\n"


def test_a_team_is_no_larger_than_its_work():
    def team(size):
        return schedule.plan((size // 64, 64), 1, 4).team

    assert team(schedule.LARGE - 64) == 1
    assert team(schedule.LARGE) == 2
    assert team(4 * schedule.LARGE) == 8


def test_what_is_taken_in_slabs():
    def kinds(shape, threads=2):
        with layout.assume_cache(32 << 20):
            plan, found = schedule.plan(shape, 1, 4), []
            for inputs in (1, 2):
                walk, share = plan.walk(inputs, threads, True), -(-plan.cut["units"] // threads)
                kind = "whole" if not walk.slab else "share" if walk.slab == share else "slabs"
                found.append(kind + ", past" * walk.nontemporal)
            return found

    assert kinds((32, 64, 112, 112)) == ["slabs, past", "slabs, past"]
    assert kinds((32, 128, 28, 28)) == ["share", "slabs, past"]
    assert kinds((32, 128, 28, 28), threads=1) == ["slabs, past", "slabs, past"]
    assert kinds((32, 256, 14, 14)) == ["share", "share"]  # it fits the cache
    assert kinds((64, 3, 224, 224)) == ["whole, past", "whole, past"]  # 3 channels for 2 threads
    assert kinds((32, 64, 112, 112), threads=64)[0] == "share, past"  # of one channel
    assert kinds((401408, 64)) == ["whole, past", "whole, past"]  # no runs
    assert kinds((16, 23156)) == ["slabs", "slabs"]  # few rows: a tile at a time
    assert kinds((256, 1024)) == ["whole", "whole"]


@pytest.mark.parametrize("itemsize", [4, 8])
def test_a_row_that_is_written_holds_a_vector(itemsize):
    lanes = 64 // itemsize
    for n in (1, 2, 3, 5, 8, 13, 40, 200):
        for channels in range(1, 40):
            for run in (1, 2, 3, 5, 7):
                cut = schedule.plan((n, channels, run), 1, itemsize).cut
                least = min(lanes, n * channels * run)
                assert cut["write_width"] >= least or cut["write_by_rows"]


@pytest.mark.parametrize("channels", [1, 3, 16, 65, 96, 100, 512, 513, 1000, 1024])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_writing_at_two_places_gives_the_same_bits(dtype, channels):
    x, dy, weight, bias = problem((200_003 // channels, channels), dtype)
    plan = layout.see(x, 1)[1].plan
    two = results(x, dy, weight, bias)
    unit = plan.record["write_unit"].copy()
    plan.record["write_unit"] = unit << 30  # too large for there to be a second place
    try:
        one = results(x, dy, weight, bias)
    finally:
        plan.record["write_unit"] = unit
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    expected = x.astype(np.float64) - x.mean(0, np.float64)
    expected *= weight / np.sqrt(x.var(0, np.float64) + 1e-5)
    np.testing.assert_allclose(two[0], expected + bias, rtol=1e-5, atol=1e-5)
