"""Dask arrays: statistics, outputs and gradients are those of the whole, whatever the chunks."""

import contextlib
import pickle
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.exceptions import AxisError

da = pytest.importorskip("dask.array")
import dask

import fastbn
from fastbn.adapters.dask import batch_norm, batch_norm_backward, batch_stats, population_stats

SHAPE = 6, 5, 4, 3
CHUNKS = (6, 5, 4, 3), (2, 5, 3, 3), (4, 2, 4, 1), ((3, 0, 3), 5, (4, 0), 3)
AXES = 1, -1, (2, 1), (3, 1, 2)
RNG = np.random.default_rng(0)
FEW = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def here():
    """Dask computes in this thread, unless a test asks for another scheduler."""
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    settings = {"distributed.worker.memory.spill": False, "distributed.worker.memory.target": False}
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="400MiB", dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def data(shape=SHAPE, dtype=np.float64, offset=3.0):
    return np.random.default_rng(1).normal(offset, 2.0, size=shape).astype(dtype)


def lazy(shape, chunks, calls, offset=3.0, pause=0.0):
    """A Dask array whose chunks count how often they are computed, and perhaps take their time."""

    def make(block_info=None):
        place = block_info[None]["chunk-location"]
        calls[place] += 1
        time.sleep(random.random() * pause)
        made = np.random.default_rng(place).normal(offset, 2.0, block_info[None]["chunk-shape"])
        return made.astype(block_info[None]["dtype"])

    chunks = da.core.normalize_chunks(chunks, shape)
    return da.map_blocks(make, chunks=chunks, dtype=np.float64, meta=np.empty((0,) * len(shape)))


def equal(a, b):
    """Whether two arrays, computed, have the same bits."""
    return np.array_equal(*(np.asarray(value) for value in (a, b)))


def same_stats(a, b):
    return np.array_equal(a.to_array(), b.to_array())


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("chunks", CHUNKS)
def test_all_of_it_is_that_of_the_whole(axis, chunks):
    x, dy = data(), RNG.normal(size=SHAPE)
    shape = tuple(x.shape[i] for i in (axis if isinstance(axis, tuple) else (axis,)))
    w, b = RNG.normal(size=shape), RNG.normal(size=shape)
    whole = fastbn.batch_stats(x, channel_axis=axis)
    y, saved = fastbn.forward(x, w, b, channel_axis=axis)
    lazy_x = da.from_array(x, chunks=chunks)
    stats = batch_stats(lazy_x, axis).compute()
    assert stats.count == whole.count
    np.testing.assert_allclose(stats.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(stats.m2, whole.m2, rtol=1e-13)
    found = batch_norm(lazy_x, w, b.ravel(), channel_axis=axis)
    assert found.chunks == lazy_x.chunks
    np.testing.assert_allclose(found, y, rtol=1e-12, atol=1e-12)
    lazy_dy = da.from_array(dy, chunks=3)
    grads = batch_norm_backward(lazy_dy, lazy_x, da.from_array(w), channel_axis=axis)
    assert grads[0].chunks == lazy_x.chunks
    for mine, theirs in zip(grads, fastbn.backward(dy, saved), strict=False):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-11)


@st.composite
def chunked(draw):
    shape = draw(st.lists(st.integers(0, 6), min_size=2, max_size=5))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    chunks = []
    for length in shape:
        cuts = draw(st.lists(st.integers(0, length), max_size=2))
        chunks.append(tuple(np.diff([0, *sorted(cuts), length]).tolist()))
    return tuple(shape), tuple(chunks), axis


@FEW
@given(chunked())
def test_any_shape_in_any_chunks(case):
    shape, chunks, axis = case
    x, n = data(shape), np.prod(shape) // max(1, shape[axis])
    if n == 1 and shape[axis]:
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            batch_norm(da.from_array(x, chunks=chunks), channel_axis=axis)
        return
    lazy_x = da.from_array(x, chunks=chunks)
    whole = fastbn.batch_stats(x, channel_axis=axis)
    stats = batch_stats(lazy_x, axis).compute()
    assert stats.count == whole.count
    np.testing.assert_allclose(stats.var(), whole.var(), rtol=1e-12)
    y, saved = fastbn.forward(x, channel_axis=axis)
    np.testing.assert_allclose(batch_norm(lazy_x, channel_axis=axis), y, atol=1e-11)
    grads = batch_norm_backward(y + x, lazy_x, channel_axis=axis)
    for mine, theirs in zip(grads, fastbn.backward(y + x, saved), strict=False):
        np.testing.assert_allclose(mine, theirs, atol=1e-10)


@pytest.mark.parametrize("kind", ["f2", "bfloat16", "f4", "f8", ">f4", ">f8", "i4", "u1", "?"])
def test_dtypes_are_fastbns(kind):
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if kind == "bfloat16" else kind)
    x = data().astype(dtype)
    lazy_x = da.from_array(x, chunks=(2, 5, 3, 3))
    y, saved = fastbn.forward(x)
    dy = y.astype(y.dtype)
    pairs = [(batch_norm(lazy_x), y)]
    pairs += zip(batch_norm_backward(dy, lazy_x), fastbn.backward(dy, saved), strict=False)
    tolerance = 3e-2 if dtype.itemsize == 2 else 1e-5
    for mine, theirs in pairs:
        value = mine.compute()
        assert mine.dtype == value.dtype == theirs.dtype
        got, wanted = value.astype(float), theirs.astype(float)
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


def test_the_gradient_is_that_of_differences():
    x, dy = data((5, 2)), RNG.normal(size=(5, 2))
    dx = batch_norm_backward(dy, da.from_array(x, chunks=(2, 1)))[0].compute()
    numeric = reference.numeric_gradient(lambda a: float((reference.forward(a) * dy).sum()), x)
    np.testing.assert_allclose(dx, numeric, atol=1e-8)


def test_a_gradient_that_comes_of_the_output():
    x = data()
    lazy_x = da.from_array(x, chunks=2)
    y = batch_norm(lazy_x)
    dx = batch_norm_backward(y * y, lazy_x)[0]
    wanted, saved = fastbn.forward(x)
    np.testing.assert_allclose(dx, fastbn.backward(wanted * wanted, saved).dx, atol=1e-12)


@pytest.mark.parametrize("axis", [1, (2, 1)])
@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("made", [np.asarray, lambda w: da.from_array(w, chunks=4)])
def test_weights(axis, keeps, made):
    x = data()
    axes = axis if isinstance(axis, tuple) else (axis,)
    shape = [1 if i in axes else n for i, n in enumerate(SHAPE)]
    shape[3] = 1  # repeated
    w = RNG.integers(0, 3, size=shape)
    full = np.broadcast_to(w == 0, x.shape)
    x[full] = np.nan
    wanted = fastbn.batch_stats(x, channel_axis=axis, weights=w)
    given = w if keeps else w.squeeze(axes)
    for dtype, tolerance in ((np.float64, 1e-13), (np.float32, 1e-6)):
        lazy_x = da.from_array(x.astype(dtype), chunks=(4, 2, 3, 2))
        stats = batch_stats(lazy_x, axis, weights=made(given)).compute()
        assert stats.count == wanted.count
        np.testing.assert_allclose(stats.mean, wanted.mean, rtol=tolerance)
        np.testing.assert_allclose(stats.var(), wanted.var(), rtol=tolerance)
    y = batch_norm(lazy_x, channel_axis=axis, stats=batch_stats(lazy_x, axis, made(given)))
    assert equal(np.isnan(y.compute()), full)


def test_statistics_that_are_given():
    x = data()
    lazy_x = da.from_array(x, chunks=2)
    stats, other = fastbn.batch_stats(x), fastbn.batch_stats(x[:2])
    pair = da.from_array(other.mean, chunks=2), other.var()
    for mine, wanted in ((other, other), (pair, (other.mean, other.var()))):
        assert equal(batch_norm(lazy_x, stats=mine), fastbn.normalize(x, wanted))
    assert equal(batch_norm(lazy_x, stats=dask.delayed(other)), batch_norm(x, stats=other))
    dx = batch_norm_backward(x, lazy_x)[0].compute()
    for mine in (stats, batch_stats(lazy_x)):
        np.testing.assert_allclose(batch_norm_backward(x, lazy_x, stats=mine)[0], dx, atol=1e-13)
    with pytest.raises(ValueError, match="stats should have 5 channels, got 4"):
        batch_norm(lazy_x, stats=batch_stats(lazy_x, 2)).compute()


def test_every_digit_moves_between_tasks():
    from fastbn.adapters import _records

    digits = np.random.default_rng(0).random(2 + 4 * 6)
    stats = fastbn.Stats.from_array(digits)
    again = _records.unpack(_records.pack(stats, (2, 3)))
    assert equal(again.to_array(), digits)


# --- accuracy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 10.0, 1e4])
@pytest.mark.parametrize("rows", [2, 16, 700, 4096])
def test_float32_statistics_are_exact_to_3e_8(offset, rows):
    x = data((4096, 2), np.float32, offset)
    stats = batch_stats(da.from_array(x, chunks=(rows, 1))).compute()
    for c in range(2):
        mean, var = reference.exact_statistics(x[:, c])
        assert abs(stats.mean[c] - mean) / float(var) ** 0.5 <= 3e-8 * 1e-6  # float64, in fact
        assert abs(stats.var()[c] - var) / var <= 3e-8 * 1e-4


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e8])
@pytest.mark.parametrize("rows", [1, 7, 500])
def test_float64_statistics_are_at_most_twice_as_far_off(offset, rows):
    x = data((2000, 2), offset=offset)
    stats, whole = batch_stats(da.from_array(x, chunks=(rows, 2))).compute(), fastbn.batch_stats(x)
    for c in range(2):
        mean, var = reference.exact_statistics(x[:, c])
        ulp = np.spacing(float(abs(mean)))
        assert abs(stats.mean[c] - mean) <= max(2 * abs(whole.mean[c] - mean), ulp)
        floor = 4 * np.finfo(float).eps * var  # a few digits of the last place
        assert abs(stats.var()[c] - var) <= max(2 * abs(whole.var()[c] - var), floor)


# --- what is computed, when and how often ---------------------------------------------------------


def test_nothing_is_computed_before_it_is_asked_for():
    calls = Counter()
    x = lazy((8, 3), (2, 3), calls)
    y = batch_norm(x)
    stats = batch_stats(x)
    batch_norm_backward(y, x, stats=stats)
    batch_norm(x, stats=stats)
    population_stats([x, x])
    assert not calls


def test_a_pass_computes_x_anew_and_persisted_chunks_are_not_computed_again():
    calls = Counter()
    x = lazy((8, 3), (2, 3), calls)
    batch_norm(x).compute()
    assert set(calls.values()) == {2}
    calls.clear()
    batch_norm_backward(batch_norm(x), x)[0].compute()
    assert set(calls.values()) == {3}  # statistics, of which there is one; sums; dx
    held = x.persist()
    calls.clear()
    dask.compute(batch_norm(held), *batch_norm_backward(held, held), batch_stats(held))
    assert not calls


class Reader:
    """What a library of files hands out: it has a shape and a dtype, and is indexed."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype
        self.ndim = values.ndim

    def __getitem__(self, index):
        return self.values[index]


def in_memory(rows=8):
    return da.from_array(data((rows, 3)), chunks=(2, 3))


def optimized_passes(x):
    """An output whose graph, of one layer, has the gradient's tasks, too."""
    y = batch_norm(x)
    return dask.optimize(y, batch_norm_backward(y * y, x)[0])[0]


SOURCES = {
    "chunks in memory, sliced": lambda x: in_memory()[1:],
    "chunks in memory, joined": lambda x: da.concatenate([in_memory(2), in_memory(4), x]),
    "stacked": lambda x: da.stack([in_memory(), x, x + 1]).reshape(-1, 3),
    "chosen": lambda x: da.where(x > 3, x, in_memory())[[0, 5, 2, 7, 7, 1]],
    "reader": lambda x: da.from_array(Reader(data((8, 3))), chunks=(2, 3))[:7] * 2,
    "reader, inline": lambda x: da.from_array(Reader(data((8, 3))), (2, 3), inline_array=True),
    "partly persisted": lambda x: da.concatenate([x.persist(), x * 2])[::2],
    "transposed": lambda x: x.reshape(8, 3).T.rechunk((2, 5)),
    "rolled": lambda x: da.roll(x, 1, axis=0),
    "rechunk": lambda x: x.rechunk((3, 2)),
    "concatenate": lambda x: da.concatenate([x[:5], x[5:]]),
    "slice": lambda x: x[1:, ::-1],
    "of its own mean": lambda x: x - x.mean(axis=0),
    "delayed": lambda x: da.concatenate(
        [da.from_delayed(dask.delayed(data)((4, 3), offset=i), (4, 3), float) for i in range(2)]
    ),
    "a delayed argument": lambda x: x.map_blocks(np.add, dask.delayed(float)(3), dtype=float),
    "optimized": lambda x: dask.optimize(x + 1)[0],
    "another batch norm": lambda x: batch_norm(x * x),
    "by another one's statistics": lambda x: batch_norm(x, stats=batch_stats(batch_norm(x + 1))),
    "optimized passes": lambda x: optimized_passes(da.cumsum(x, axis=0)),
}


@pytest.mark.parametrize("source", SOURCES)
def test_any_graph_may_make_x(source):
    x = SOURCES[source](lazy((8, 3), (2, 3), Counter()))
    whole = x.compute()
    y, saved = fastbn.forward(whole)
    dx = batch_norm_backward(batch_norm(x), x)[0]
    for mine, theirs in zip(
        dask.compute(batch_norm(x), dx), (y, fastbn.backward(y, saved).dx), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)


@pytest.mark.parametrize("given", [False, True])
def test_the_second_pass_begins_when_the_first_has_ended(given):
    order = []
    x = lazy((40, 3), (2, 3), Counter()).map_blocks(lambda a: (order.append("x"), a)[1])
    stats = batch_stats(x) if given else None
    y = batch_norm(x, stats=stats).map_blocks(lambda a: (order.append("y"), a)[1])
    order.clear()
    with dask.config.set(scheduler="threads", num_workers=4):
        y.compute()
    assert order.index("y") > 20  # all 20 chunks, and the first of the second pass
    assert order.count("x") == 40


def test_no_chunk_waits_for_a_pass_to_end(monkeypatch):
    """While results of a pass merge, which takes long, no chunk of the next pass is made."""
    order = []

    def slow(function):
        def merge(*args):
            time.sleep(0.05)
            result = function(*args)
            order.append("merged")
            return result

        return merge

    x = lazy((40, 3), (2, 3), Counter()).map_blocks(lambda a: (order.append("x"), a)[1])
    x = da.concatenate([x[:20], x[20:]])  # Dask does not fuse these with tasks of their own
    monkeypatch.setattr(fastbn, "merge_stats", slow(fastbn.merge_stats))
    monkeypatch.setattr(fastbn, "GradSums", slow(fastbn.GradSums))  # made before each dx
    for result, passes in ((batch_norm(x), 2), (batch_norm_backward(batch_norm(x), x)[0], 3)):
        order.clear()
        with dask.config.set(scheduler="threads", num_workers=4):
            result.compute()
        merges = [i for i, event in enumerate(order) if event == "merged"]
        assert order[: merges[2]].count("x") == 20  # 20 chunks, 16 and 4 of them, and both
        assert order.count("x") == 20 * passes


def test_what_lies_in_memory_is_in_a_graph_once():
    x = da.from_array(data((8, 3)), chunks=2)
    held = (x + 1).persist()
    for array in (x, held):
        names = {key[0] for key in dict(batch_norm(array).dask) if isinstance(key, tuple)}
        assert array.name in names
        assert not [name for name in names if "-again-" in name]


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_the_same_bits_in_any_order(threads):
    x = lazy((60, 4), (3, 2), Counter(), pause=2e-3)
    wanted = dask.compute(batch_stats(x), batch_norm(x), *batch_norm_backward(x, x))
    for _ in range(10 // threads + 2):
        with dask.config.set(scheduler="threads", num_workers=threads):
            got = dask.compute(batch_stats(x), batch_norm(x), *batch_norm_backward(x, x))
        assert same_stats(got[0], wanted[0])
        assert all(equal(a, b) for a, b in zip(got[1:], wanted[1:], strict=True))


def test_keys_are_the_same_in_every_process():
    x = da.ones((8, 3), chunks=2)
    assert batch_norm(x).name == batch_norm(x).name != batch_norm(x, eps=1e-3).name
    assert batch_stats(x).key == batch_stats(x).key != batch_stats(x, 0).key
    assert batch_norm_backward(x, x)[0].name == batch_norm_backward(x, x)[0].name


@pytest.mark.usefixtures("as_started")
@pytest.mark.parametrize("number", [None, 2])
def test_a_task_has_one_thread_unless_a_number_was_set(number, monkeypatch):
    if number and number > fastbn.config_info()["thread_limits"]["NUMBA_NUM_THREADS"]:
        pytest.skip("one processor")
    seen = set()
    for name in ("batch_stats", "normalize", "backward_sums", "backward_input"):
        monkeypatch.setattr(fastbn, name, noting(seen, getattr(fastbn, name)))
    x = da.from_array(data((8, 3)), chunks=4)
    passes = batch_norm(x, stats=batch_stats(x)), *batch_norm_backward(x, x)
    seen.clear()
    with fastbn.threads(number) if number else contextlib.nullcontext():
        dask.compute(*passes)
    assert seen == {number or 1}


def noting(seen, function):
    """A function that notes how many threads it would have."""

    def noted(*args, **options):
        seen.add(fastbn.get_num_threads())
        return function(*args, **options)

    return noted


# --- batches --------------------------------------------------------------------------------------


def test_population_of_every_kind_of_batch():
    parts = [data((n, 4, 3), offset=n) for n in (5, 0, 7, 40)]
    wanted = fastbn.population_stats(parts)
    load = dask.delayed(parts.__getitem__)
    ones = dask.delayed(lambda i: (parts[i], np.ones((len(parts[i]), 1, 3))))
    kinds = [
        parts,
        (load(i) for i in range(4)),
        [da.from_array(part, chunks=2) for part in parts],
        [ones(i) for i in range(4)],
        [load(0), parts[1], da.from_array(parts[2]), (load(3), np.ones((40, 3)))],
    ]
    for batches in kinds:
        stats = population_stats(batches).compute()
        assert stats.count == wanted.count
        np.testing.assert_allclose(stats.mean, wanted.mean, rtol=1e-14)
        np.testing.assert_allclose(stats.var(), wanted.var(), rtol=1e-13)
    many = population_stats([load(i % 4) for i in range(400)]).compute()
    assert many.count == 100 * wanted.count


@pytest.mark.parametrize("axis", [0, 1, -1, (1, 0)])
def test_an_array_of_batches(axis):
    x = data((6, 5, 4, 3))
    stats = population_stats(da.from_array(x, chunks=2), channel_axis=axis).compute()
    wanted = fastbn.population_stats(x, channel_axis=axis)
    np.testing.assert_allclose(stats.mean, wanted.mean, rtol=1e-14)


def test_errors_of_batches():
    x = data((4, 3))
    load = dask.delayed(lambda n: np.ones((4, n)))
    for batches, kind, words in (
        ([], ValueError, "at least one batch, got none"),
        (da.ones((0, 4, 3)), ValueError, "at least one batch, got none"),
        (3, TypeError, "batches should be an iterable of arrays, got int"),
        ([x, x[:, :2]], ValueError, "batch 0 has 3, batch 1 has 2"),
        ([x, (x, x, x)], ValueError, "batch 1: .* got a tuple of 3"),
        ([x, x[0]], ValueError, "batch 1: x should have at least 2 dimensions, got 1"),
        ([x, "x"], TypeError, "batch 1: x should be a Dask array"),
        (da.ones((4, 3)), ValueError, "batch 0: x should have at least 2"),
    ):
        with pytest.raises(kind, match=words):
            population_stats(batches)
    late = population_stats([load(3)] * 20 + [load(2)])
    with pytest.raises(ValueError, match="batch 16 has 3, batch 20 has 2"):
        late.compute()
    with pytest.raises(AxisError, match="batch 1: channel_axis should be from"):
        population_stats([dask.delayed(np.ones)((4, 3, 2)), load(3)], channel_axis=2).compute()


# --- xarray ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, {"time": 2, "band": 3}])
def test_data_arrays(chunks):
    xr = pytest.importorskip("xarray")
    x = data((6, 4, 3))
    dims, coords = ("time", "pixel", "band"), {"band": list("abc"), "time": np.arange(6)}
    array = xr.DataArray(x, coords, dims, name="light", attrs={"units": "m"})
    array = array if chunks is None else array.chunk(chunks)
    y = batch_norm(array, channel_axis="band")
    assert isinstance(y.data, da.Array)
    assert (y.dims, y.name, y.attrs) == (dims, "light", {"units": "m"})
    assert list(y.band.values) == list("abc")
    wanted, saved = fastbn.forward(x, channel_axis=-1)
    np.testing.assert_allclose(y, wanted, atol=1e-13)
    turned = xr.DataArray(wanted, dims=dims).transpose("band", "time", "pixel")
    dx, dweight, _ = batch_norm_backward(turned, array, channel_axis="band")
    assert dx.dims == dims
    np.testing.assert_allclose(dx, fastbn.backward(wanted, saved).dx, atol=1e-13)
    assert isinstance(dweight, da.Array)
    mask = xr.DataArray(np.arange(6) < 4, dims="time")
    stats = batch_stats(array, ("band", "pixel"), weights=mask).compute()
    np.testing.assert_allclose(stats.mean, x[:4].mean(axis=0).T.ravel())
    stats = population_stats([array, array], channel_axis="band").compute()
    assert stats.count == 48
    with pytest.raises(ValueError, match=r"one of \('time', 'pixel', 'band'\), got 'bend'"):
        batch_norm(array, channel_axis="bend")


# --- errors ---------------------------------------------------------------------------------------

BAD = {
    "list": (lambda x: batch_norm([[1.0, 2.0]]), TypeError, "x should be a Dask array.*got list"),
    "masked": (lambda x: batch_stats(np.ma.ones((3, 2))), TypeError, "x should be.*MaskedArray"),
    "masked chunks": (
        lambda x: batch_stats(da.ma.masked_less(x, 0)), TypeError, "x should have chunks.*Masked"),
    "complex": (lambda x: batch_norm(x.astype("c16")), TypeError, "x should be.*complex128"),
    "text": (lambda x: batch_norm(x.astype("U3")), TypeError, "x should be.*U3"),
    "unknown": (lambda x: batch_norm(x[x[:, 0] > 0]), ValueError, "x should have chunks of known"),
    "rank": (lambda x: batch_norm(x[0]), ValueError, r"x should have at least 2.*\(shape \(3,\)\)"),
    "axis": (
        lambda x: batch_norm(x, channel_axis=2), AxisError, r"channel_axis.*x of shape \(8, 3\)"),
    "half an axis": (lambda x: batch_norm(x, channel_axis=0.5), TypeError, "channel_axis"),
    "one value": (
        lambda x: batch_norm(x[:1]), ValueError, r"Expected more than 1.*input size \(1, 3\)"),
    "one value, backward": (
        lambda x: batch_norm_backward(x[:1], x[:1]), ValueError, "Expected more than 1"),
    "weight": (lambda x: batch_norm(x, np.ones(4)), ValueError, "weight should contain 3.*not 4"),
    "lazy weight": (
        lambda x: batch_norm(x, da.ones(4)), ValueError, "weight should contain 3 elements not 4"),
    "delayed weight": (
        lambda x: batch_norm(x, dask.delayed(1)), TypeError, "weight should be an array"),
    "bias": (lambda x: batch_norm(x, None, ["a"] * 3), TypeError, "bias should be"),
    "eps": (lambda x: batch_norm(x, eps=-1.0), ValueError, "eps"),
    "nan": (lambda x: batch_norm_backward(x, x, eps=np.nan), ValueError, "eps"),
    "stats": (lambda x: batch_norm(x, stats=3), TypeError, "stats should be a Stats"),
    "channels": (
        lambda x: batch_norm(x, stats=fastbn.Stats.empty(2)), ValueError, "stats should have 3"),
    "pair": (lambda x: batch_norm_backward(x, x, stats=(0, 1)), TypeError, "stats should be those"),
    "dy": (lambda x: batch_norm_backward(x[1:], x), ValueError, r"dy should have shape \(8, 3\)"),
    "whole dy": (
        lambda x: batch_norm_backward(x.astype(int), x), TypeError, "dy should be a floating"),
    "weights": (
        lambda x: batch_stats(x, weights=np.ones(3)), ValueError, r"weights should have.*\(3,\)"),
    "weights, text": (
        lambda x: batch_stats(x, weights=np.array(["a"] * 8)), TypeError, "weights should be"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_errors_come_before_any_work(case):
    call, kind, words = BAD[case]
    calls = Counter()
    with pytest.raises(kind, match=words):
        call(lazy((8, 3), (2, 3), calls))
    assert not calls


# --- processes ------------------------------------------------------------------------------------


def test_graphs_can_be_pickled():
    x = da.from_array(data(), chunks=3)
    y, stats = batch_norm(x), batch_stats(x)
    assert equal(pickle.loads(pickle.dumps(y)), y)
    assert same_stats(pickle.loads(pickle.dumps(stats)).compute(), stats.compute())


def peak():
    """The most memory that this process has had, in MiB; that of its parent, too, outside Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) >> 10
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20


def test_processes_give_the_same_bits(client):
    x = da.random.default_rng(0).normal(3, 2, size=(60, 4, 5), chunks=(7, 3, 5))
    passes = batch_stats(x), batch_norm(x), *batch_norm_backward(batch_norm(x), x)
    wanted = dask.compute(*passes)
    got = dask.compute(*passes, scheduler=client)
    assert same_stats(got[0], wanted[0])
    assert all(equal(a, b) for a, b in zip(got[1:], wanted[1:], strict=True))
    held = client.persist(x)
    dx = client.compute(batch_norm_backward(held, held)[0]).result()
    assert equal(dx, batch_norm_backward(x, x)[0])


@pytest.mark.parametrize("held", [False, True])
def test_chunks_that_workers_send_to_each_other(client, held):
    """`rechunk` by distributed's own layer, which it finds by a token in its tasks."""
    x = da.from_array(data((80, 6)), chunks=(8, 6)) + 0
    x = (client.persist(x) if held else x).rechunk((7, 3), method="p2p")
    wanted, saved = fastbn.forward(data((80, 6)))
    y = batch_norm(x)
    for mine, theirs in (
        (y, wanted),
        (batch_norm_backward(y * y, x)[0], fastbn.backward(wanted * wanted, saved).dx),
    ):
        np.testing.assert_allclose(client.compute(mine, sync=True), theirs, atol=1e-12)


def test_an_array_that_a_worker_was_sent(client):
    x = da.from_delayed(client.scatter(data((80, 6))), (80, 6), float).rechunk((8, 6))
    dx = client.compute(batch_norm_backward(batch_norm(x), x)[0], sync=True)
    wanted, saved = fastbn.forward(data((80, 6)))
    np.testing.assert_allclose(dx, fastbn.backward(wanted, saved).dx, atol=1e-12)


def test_an_array_that_no_worker_could_hold(client):
    """Two workers of 400 MiB, of which they themselves take 170, and an array of 768 MiB."""
    chunk, count = (1 << 20, 2), 96  # 8 MiB of float32
    x = da.random.default_rng(0).standard_normal(
        size=(chunk[0] * count, 2), chunks=chunk, dtype=np.float32
    )
    y = batch_norm(x)
    dx, dweight, dbias = batch_norm_backward(y * y, x)
    results = y.sum(dtype=float), dx.sum(dtype=float), dweight, dbias
    found = client.compute(results, sync=True)
    assert abs(found[3] / len(x) - 1).max() < 1e-4  # the mean of y^2: of eps, and of float32
    assert max(client.run(peak).values()) < 400
