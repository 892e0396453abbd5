"""How calls are cut: neither the kind of stores, nor slabs of channels, change any bit."""

import numpy as np
import pytest
from data import DTYPES, channels_last, problem
from process import run_python
from shapes import STORED

import fastbn
from fastbn._arrays import layout
from fastbn._kernels import schedule
from fastbn._runtime import info


def results(x, dy, weight, bias):
    y, saved = fastbn.forward(x, weight, bias)
    return y, *fastbn.backward(dy, saved)[:3], saved.stats.mean, saved.stats.m2


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_nontemporal_stores_give_the_same_bits(dtype, request):
    cases = {name: problem(shape, dtype) for name, shape in STORED.items()}
    plain = {name: results(*arrays) for name, arrays in cases.items()}
    request.getfixturevalue("small_cache")
    for name, arrays in cases.items():
        assert layout.see(arrays[0], 1)[1].plan.cut["nontemporal"]
        for one, two in zip(plain[name], results(*arrays), strict=True):
            np.testing.assert_array_equal(one, two)
    x, dy, weight, bias = cases["rows"]
    y, dx, *_ = results(channels_last(x), channels_last(dy), weight, bias)
    np.testing.assert_allclose(y, plain["rows"][0], atol=1e-5)
    np.testing.assert_allclose(dx, plain["rows"][1], atol=1e-5)


@pytest.fixture
def small_slabs(monkeypatch, small_cache):
    """Small arrays are large, and fused into many slabs of few channels."""
    for name, value in {"LARGE": 1, "BLOCK": 512, "FUSE_GROUPS": 1, "SLAB_BYTES": 1 << 14}.items():
        monkeypatch.setattr(schedule, name, value)
    layout.forget()


@pytest.mark.usefixtures("keep_threads", "small_slabs")
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6, 40, 9, 16), (5, 37, 17, 31), (3, 64, 1200), (1, 50, 140)])
def test_slabs_give_the_same_bits(monkeypatch, shape, dtype, threads):
    x, dy, weight, bias = problem(shape, dtype, offset=5.0)
    x[0, 3] += 1e6  # outliers, which are summed once more
    x[0, 7] *= np.asarray(1e25, dtype)
    x[0, 11] = np.nan
    fastbn.set_num_threads(threads)

    def digest():
        y, saved = fastbn.forward(x, weight, bias)
        grads = fastbn.backward(dy, saved)
        again = dy.copy()
        fastbn.backward(again, saved, out=again)
        np.testing.assert_array_equal(again, grads.dx)
        return [y, saved.stats.mean, saved.stats.m2, *grads]

    plan = schedule.plan(shape, 1, np.dtype(dtype).itemsize)
    assert plan.slab(1, threads) > 0
    assert plan.slab(2, threads) > 0
    fused = digest()
    monkeypatch.setattr(schedule, "FUSE_GROUPS", 1 << 40)
    layout.forget()
    for one, two in zip(fused, digest(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert np.isnan(fused[0][:, 11]).all()
    assert np.isfinite(np.delete(fused[0], 11, axis=1)).all()


MANY = """
import numpy as np
from data import problem
import fastbn
from fastbn._arrays import layout
from fastbn._kernels import schedule

schedule.LARGE, schedule.BLOCK, schedule.SLAB_BYTES = 1, 512, 1 << 12
x, dy, weight, bias = problem((2, 130, 600), np.float32)
results = []
for groups in (1 << 40, 1):  # whole arrays, then slabs
    schedule.FUSE_GROUPS = groups
    with layout.assume_cache(1):
        for threads in (1, 2, 16, 64):
            fastbn.set_num_threads(threads)
            assert (schedule.plan(x.shape, 1, 4).slab(2, threads) > 0) == (groups == 1)
            y, saved = fastbn.forward(x, weight, bias)
            results.append([y, *fastbn.backward(dy, saved)])
for result in results:
    assert all(map(np.array_equal, result, results[0]))
print("done")
"""


def test_slabs_give_the_same_bits_on_many_cores():
    assert run_python(MANY, NUMBA_NUM_THREADS="64") == "done\n"


def test_what_is_fused():
    def slabs(shape, threads=2):
        with info.assume_cache(32 << 20):
            cut = schedule.plan(shape, 1, 4)
            return [cut.slab(inputs, threads) > 0 for inputs in (1, 2)]

    assert slabs((32, 64, 112, 112)) == [True, True]
    assert slabs((32, 64, 56, 56)) == [True, True]
    assert slabs((32, 256, 28, 28)) == [True, True]
    assert slabs((32, 128, 28, 28)) == [False, False]  # much of it fits the cache
    assert slabs((64, 3, 224, 224)) == [False, False]  # three channels for two threads
    assert slabs((32, 64, 112, 112), threads=64) == [False, False]
    assert slabs((401408, 64)) == [False, False]  # no runs


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
