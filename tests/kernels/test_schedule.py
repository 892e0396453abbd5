"""How calls are cut: neither streaming stores nor slabs of channels change any bit."""

import numpy as np
import pytest
from data import DTYPES, channels_last, problem

import fastbn
from fastbn import _layout, _plan
from fastbn._vectors import PAGE_BYTES

SHAPES = {
    "long rows": (3, 2, 40_001),
    "rows": (5, 7, 26, 27),
    "rows of 2 KB": (40, 5, 512),
    "short rows": (50, 31, 7, 7),
    "columns": (1001, 65),
    "one column": (70_001, 1),
    "three columns": (30_001, 3),
    "tiny": (3, 2, 5),
}


@pytest.fixture
def small_cache(monkeypatch):
    """A last-level cache of a few bytes: every large enough run is streamed."""
    monkeypatch.setattr(_plan, "last_level_cache", lambda: 1)
    _layout._layout.cache_clear()
    yield
    _layout._layout.cache_clear()


def unaligned(x, offset):
    """An empty array like x that starts `offset` values behind a multiple of 64 bytes."""
    raw = np.full(x.size + 64, 7.0, x.dtype)
    start = (-raw.ctypes.data % 64) // x.itemsize + offset
    return raw, raw[start : start + x.size].reshape(x.shape)


def results(x, dy, weight, bias):
    y, saved = fastbn.forward(x, weight, bias)
    return y, *fastbn.backward(dy, saved)[:3], saved.stats.mean, saved.stats.m2


@pytest.fixture(params=DTYPES, ids=lambda d: d.__name__)
def case(request):
    return {name: problem(shape, request.param) for name, shape in SHAPES.items()}


def test_streaming_gives_the_same_bits(case, request):
    plain = {name: results(*arrays) for name, arrays in case.items()}
    request.getfixturevalue("small_cache")
    streamed = {name: results(*arrays) for name, arrays in case.items()}
    for name in SHAPES:
        for one, two in zip(plain[name], streamed[name], strict=True):
            np.testing.assert_array_equal(one, two)
    x, dy, weight, bias = case["rows"]
    y, dx, *_ = results(channels_last(x), channels_last(dy), weight, bias)
    np.testing.assert_allclose(y, plain["rows"][0], atol=1e-5)
    np.testing.assert_allclose(dx, plain["rows"][1], atol=1e-5)


@pytest.mark.usefixtures("small_cache")
@pytest.mark.parametrize("offset", [0, 1, 3, 7, 15])
@pytest.mark.parametrize("name", SHAPES)
def test_streaming_to_any_alignment_writes_what_it_should(case, name, offset):
    x, dy, weight, bias = case[name]
    y, saved = fastbn.forward(x, weight, bias)
    for expected, call in (
        (y, lambda out: fastbn.normalize(x, saved.stats, weight, bias, out=out)),
        (fastbn.backward(dy, saved).dx, lambda out: fastbn.backward(dy, saved, out=out).dx),
    ):
        raw, out = unaligned(x, offset)
        np.testing.assert_array_equal(call(out), expected)
        out[...] = 7.0
        np.testing.assert_array_equal(raw, 7.0)  # nothing before or behind it


@pytest.mark.usefixtures("small_cache")
@pytest.mark.parametrize("name", SHAPES)
def test_in_place_gives_the_same_bits(case, name):
    x, dy, weight, bias = case[name]
    y, saved = fastbn.forward(x, weight, bias)
    dx = fastbn.backward(dy, saved).dx
    z, dz = x.copy(), dy.copy()
    np.testing.assert_array_equal(fastbn.normalize(z, saved.stats, weight, bias, out=z), y)
    np.testing.assert_array_equal(fastbn.backward(dz, saved, out=dz).dx, dx)


@pytest.fixture
def small_slabs(monkeypatch, small_cache):
    """Small arrays are large, and fused into many slabs of few channels."""
    for name, value in {"LARGE": 1, "BLOCK": 512, "FUSE_GROUPS": 1, "SLAB_BYTES": 1 << 14}.items():
        monkeypatch.setattr(_plan, name, value)
    _layout._layout.cache_clear()


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

    plan = _plan.plan(shape, 1, np.dtype(dtype).itemsize)
    assert plan.slab(1, threads) > 0
    assert plan.slab(2, threads) > 0
    fused = digest()
    monkeypatch.setattr(_plan, "FUSE_GROUPS", 1 << 40)
    _layout._layout.cache_clear()
    for one, two in zip(fused, digest(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert np.isnan(fused[0][:, 11]).all()
    assert np.isfinite(np.delete(fused[0], 11, axis=1)).all()


def test_what_is_fused(monkeypatch):
    monkeypatch.setattr(_plan, "last_level_cache", lambda: 32 << 20)

    def slabs(shape, threads=2):
        cut = _plan.plan(shape, 1, 4)
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
                array = _plan.plan((n, channels, run), 1, itemsize).array
                least = min(lanes, n * channels * run)
                assert array[_plan.WRITE_WIDTH] >= least or array[_plan.WRITE_BY_ROWS]


@pytest.mark.parametrize("channels", [1, 3, 16, 65, 96, 100, 512, 513, 1000, 1024])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_writing_at_two_places_gives_the_same_bits(dtype, channels):
    x, dy, weight, bias = problem((200_003 // channels, channels), dtype)
    plan = _layout.see(x, 1)[1].plan
    two = results(x, dy, weight, bias)
    unit = plan.array[_plan.WRITE_UNIT]
    plan.array[_plan.WRITE_UNIT] = unit << 30  # too large for there to be a second place
    try:
        one = results(x, dy, weight, bias)
    finally:
        plan.array[_plan.WRITE_UNIT] = unit
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    expected = x.astype(np.float64) - x.mean(0, np.float64)
    expected *= weight / np.sqrt(x.var(0, np.float64) + 1e-5)
    np.testing.assert_allclose(two[0], expected + bias, rtol=1e-5, atol=1e-5)


def place(a):
    return a.ctypes.data % PAGE_BYTES


@pytest.mark.parametrize("shape", [(70_000, 1), (3000, 3000)])
@pytest.mark.parametrize("offset", [0, 1, 20, 512, 513, 1023])
def test_large_outputs_lie_where_stores_do_not_hinder_loads(shape, offset):
    x = np.zeros(shape[0] * shape[1] + 2048, np.float32)
    dy = np.zeros_like(x)
    x = x[-x.ctypes.data % PAGE_BYTES // 4 :][: shape[0] * shape[1]].reshape(shape)
    dy = dy[-dy.ctypes.data % PAGE_BYTES // 4 + offset :][: x.size].reshape(shape)
    x[:: shape[0] // 2] = 1.0
    y, saved = fastbn.forward(x)
    assert place(y) == place(x) == 0
    behind = place(dy) if offset > 512 else place(x)  # of the two, modulo a page
    assert place(fastbn.backward(dy, saved).dx) == behind
