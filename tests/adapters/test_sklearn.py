"""scikit-learn's StandardScaler on fastbn: its own checks and tests, and digits that it loses."""

import os
import pickle
import re
import subprocess
import sys
import warnings
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sklearn = pytest.importorskip("sklearn")

import process
import reference
from scipy.sparse import csr_array
from sklearn import preprocessing
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

import fastbn
from fastbn.adapters.sklearn import StandardScaler

ATTRIBUTES = ("mean_", "var_", "scale_", "n_samples_seen_")
ROWS = np.array([[0.0, 1.0], [0.5, 500.5], [1.0, 1000.0]])
COUNTS = 1, 0, 8, 11, 3, 40, 64  # rows of parts


def normals(shape, dtype=np.float64, seed=0, offset=3.0):
    return (np.random.default_rng(seed).standard_normal(shape) * 2 + offset).astype(dtype)


def with_nan(x, share=0.2, columns=slice(None), seed=1):
    """A copy with NaN in some places of some columns."""
    x = x.copy()
    missing = np.random.default_rng(seed).random(x.shape) < share
    x[:, columns][missing[:, columns]] = np.nan
    return x


def cut(x, counts=COUNTS):
    """Consecutive rows, and what is left of them; none is empty."""
    return [part for part in np.split(x, np.cumsum(counts)) if len(part)]


def assert_same(mine, other, **tolerance):
    """Equal attributes, whichever library's."""
    for name in ATTRIBUTES:
        got, expected = getattr(mine, name), getattr(other, name)
        if expected is None:
            assert got is None
        else:
            np.testing.assert_allclose(got, expected, err_msg=name, **tolerance)
            assert np.shape(got) == np.shape(expected)


def exact(x):
    """Mean and variance of each column by fractions, rounded."""
    found = [reference.exact_statistics(column) for column in x.T.astype(np.float64)]
    return [np.array([float(pair[i]) for pair in found]) for i in range(2)]


# --- what scikit-learn asks of it ---------------------------------------------------------------


SCALERS = StandardScaler(), StandardScaler(with_mean=False), StandardScaler(with_std=False)
CHECKS = [pair for scaler in SCALERS for pair in estimator_checks_generator(scaler)]


def name_of(value):
    """A check is a function, or a partial of one."""
    return getattr(getattr(value, "func", value), "__name__", repr(value))


@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=name_of)
def test_checks_of_estimators(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checks that are skipped, or of scikit-learn's own data
        check(estimator)


PEERS = """
from functools import partialmethod

import sklearn.preprocessing as theirs
from scipy.sparse import issparse
from sklearn.preprocessing.tests import test_data

from fastbn.adapters import sklearn as ours


class Either(ours.StandardScaler, theirs.StandardScaler):
    # scikit-learn's for sparse input: many tests compare it with dense input

    def _either(self, X, *args, method, **named):
        kind = theirs.StandardScaler if issparse(X) else ours.StandardScaler
        return getattr(kind, method)(self, X, *args, **named)

    fit = partialmethod(_either, method="fit")
    partial_fit = partialmethod(_either, method="partial_fit")
    transform = partialmethod(_either, method="transform")
    inverse_transform = partialmethod(_either, method="inverse_transform")


test_data.StandardScaler = Either
globals().update({name: value for name, value in vars(test_data).items() if "test_" in name})
"""
# Of scikit-learn's tests those that name its StandardScaler; neither arrays of other libraries than
# NumPy nor callbacks (both experimental there) are taken here.
CHOSEN = (
    "(standard or test_scaler or scale_sparse or center_kernel or cold_start or one_to_one or"
    " partial_fit_sparse or weights_greater or test_fit_transform or kernelcenterer)"
    " and not array_api and not callback"
)


def test_peers_own_tests(tmp_path):
    pytest.importorskip("sklearn.preprocessing.tests.test_data")
    (tmp_path / "test_peer.py").write_text(PEERS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", CHOSEN]
    environment = os.environ | {"PYTHONPATH": process.python_path()}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 200


# --- the same as scikit-learn -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int32, bool])
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_results_are_scikit_learns(dtype, order):
    x = normals((60, 7), seed=2).astype(dtype)
    x = x[::2, ::-1] if order == "strided" else np.array(x, order=order)
    mine, other = StandardScaler().fit(x), preprocessing.StandardScaler().fit(x)
    assert_same(mine, other, rtol=1e-12, atol=1e-14)
    y, expected = mine.transform(x), other.transform(x)
    tolerance = {
        "rtol": 50 * np.finfo(expected.dtype).eps,
        "atol": 5 * np.finfo(expected.dtype).eps,
    }
    assert y.dtype == expected.dtype
    np.testing.assert_allclose(y, expected, **tolerance)
    back = mine.inverse_transform(y)
    assert back.dtype == y.dtype
    np.testing.assert_allclose(back, x.astype(y.dtype), rtol=0, atol=20 * np.finfo(y.dtype).eps)


@pytest.mark.parametrize("with_mean", [True, False])
@pytest.mark.parametrize("with_std", [True, False])
@pytest.mark.parametrize("nan", [(), (1, 4), slice(None)], ids=["no NaN", "two columns", "all"])
def test_arguments_and_nan(with_mean, with_std, nan):
    x = normals((200, 5))
    x = with_nan(x, columns=nan) if nan != () else x
    given = {"with_mean": with_mean, "with_std": with_std}
    mine, other = (kind(**given).fit(x) for kind in (StandardScaler, preprocessing.StandardScaler))
    assert_same(mine, other, rtol=1e-12, atol=1e-14)
    for method in ("transform", "inverse_transform"):
        y, expected = getattr(mine, method)(x), getattr(other, method)(x)
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-13)
        assert y is not x


@pytest.mark.parametrize("weights", ["int", "real", "some are 0", "number"])
@pytest.mark.parametrize("nan", [False, True])
def test_weights(weights, nan):
    rng = np.random.default_rng(3)
    x = normals((50, 4))
    x = with_nan(x, columns=[2]) if nan else x
    w = {
        "int": rng.integers(1, 5, 50),
        "real": rng.random(50),
        "some are 0": rng.integers(0, 2, 50) * rng.random(50),
        "number": 2.5,
    }[weights]
    mine = StandardScaler().fit(x, sample_weight=w)
    other = preprocessing.StandardScaler().fit(x, sample_weight=w)
    assert_same(mine, other, rtol=1e-12, atol=1e-14)
    assert np.asarray(mine.n_samples_seen_).dtype == np.float64
    if weights == "int":
        repeated = StandardScaler().fit(np.repeat(x, w, axis=0))
        assert_same(mine, repeated, rtol=1e-12, atol=1e-14)


def test_a_row_without_weight_may_be_nan():
    x = normals((20, 3))
    x[4] = np.nan
    w = np.ones(20)
    w[4] = 0
    mine = StandardScaler().fit(x, sample_weight=w)
    assert_same(mine, StandardScaler().fit(np.delete(x, 4, axis=0)), rtol=1e-13)
    assert mine.n_samples_seen_ == 19


def test_counts_stay_real_after_weights():
    x = normals((10, 2))
    mine = StandardScaler().partial_fit(x, sample_weight=np.full(10, 0.25)).partial_fit(x)
    assert mine.n_samples_seen_ == 12.5
    whole = StandardScaler().partial_fit(x).partial_fit(x)
    assert whole.n_samples_seen_ == 20
    assert whole.n_samples_seen_.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", [10, 1000, 100_000])
@pytest.mark.parametrize("average", [1e-10, 1.0, 1e10])
def test_scale_of_what_is_nearly_constant(dtype, n, average):
    for scale in 10.0 ** np.arange(-16, 20, 3):
        x = np.empty((n, 1), dtype)
        x[: n // 2], x[n // 2 :] = average + scale, average - scale
        mean, var = exact(x)
        mine = StandardScaler().fit(x)
        np.testing.assert_allclose(mine.var_, var, rtol=1e-14, atol=0)
        eps = np.finfo(np.float64).eps
        constant = var <= n * eps * var + (n * mean * eps) ** 2
        np.testing.assert_allclose(mine.scale_, np.where(constant, 1, np.sqrt(var)), rtol=1e-14)


def test_constant_columns():
    x = np.full((1000, 3), [0.1, 1e9 / 3, 0.0])
    mine = StandardScaler().fit(x)
    assert mine.var_.tolist() == [0, 0, 0]
    assert mine.scale_.tolist() == [1, 1, 1]
    assert not mine.transform(x).any()


# --- digits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("offset", [0, 1e4, 1e8])
def test_many_parts_at_an_offset(dtype, offset):
    x = normals((10_000, 2), dtype, offset=offset)
    mean, var = exact(x)
    mine = StandardScaler()
    for row in x:
        mine.partial_fit(row[None])
    for found in (mine, StandardScaler().fit(x)):
        np.testing.assert_allclose(found.mean_, mean, rtol=5e-16, atol=1e-15)
        np.testing.assert_allclose(found.var_, var, rtol=1e-14)
    assert mine.n_samples_seen_ == 10_000


def test_rows_of_more_than_one_block():
    x = normals((3, 400_000), np.float32)  # blocks have 2 rows
    mean, var = x.mean(0, dtype=np.float64), x.var(0, dtype=np.float64)
    mine = StandardScaler().fit(x)
    np.testing.assert_allclose(mine.mean_, mean, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(mine.var_, var, rtol=1e-13)
    weighted = StandardScaler().fit(x, sample_weight=[1, 1, 2])
    np.testing.assert_allclose(
        weighted.mean_, x[[0, 1, 2, 2]].mean(0, dtype=np.float64), rtol=1e-14, atol=1e-14
    )


def test_offsets_in_float32_are_transformed_with_all_digits():
    x = normals((1000, 2), np.float32, offset=1e6)
    y = StandardScaler().fit_transform(x)
    mean, var = exact(x)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var), rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("size", [1e-150, 1e-100, 1e100, 1e150])
def test_deviations_far_from_1(size):
    x = normals((100, 2), offset=0) * size
    mine = StandardScaler().fit(x)
    y = mine.transform(x)
    np.testing.assert_allclose(y.std(0), 1, rtol=1e-6)
    np.testing.assert_allclose(mine.inverse_transform(y), x, rtol=1e-12, atol=1e-13 * size)


# --- parts --------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.3, 0.9]),
    st.randoms(use_true_random=False),
)
def test_any_parts_in_any_order_are_the_whole(counts, features, seed, share, random):
    x = with_nan(normals((sum(counts), features), seed=seed), share, seed=seed)
    whole = StandardScaler().fit(x)
    parts = cut(x, counts)
    random.shuffle(parts)
    joined = StandardScaler().merge(*(StandardScaler().fit(part) for part in parts))
    one_by_one = StandardScaler()
    for part in parts:
        one_by_one.partial_fit(part)
    for found in (joined, one_by_one):
        assert_same(found, whole, rtol=1e-14, atol=1e-15)
    for j, column in enumerate(x.T):
        there = column[~np.isnan(column)]
        assert np.broadcast_to(whole.n_samples_seen_, features)[j] == there.size
        if there.size:
            mean, var = exact(there[:, None])
            np.testing.assert_allclose(whole.mean_[j], mean[0], rtol=1e-14)
            np.testing.assert_allclose(whole.var_[j], var[0], rtol=1e-13, atol=1e-30)
        else:
            assert np.isnan([whole.mean_[j], whole.var_[j], whole.scale_[j]]).all()


def test_a_column_of_nan_is_learned_later():
    x = normals((20, 2))
    first = x.copy()
    first[:, 1] = np.nan
    mine = StandardScaler().partial_fit(first)
    assert np.isnan(mine.transform(first)[:, 1]).all()
    assert mine.n_samples_seen_.tolist() == [20, 0]
    mine.partial_fit(x)
    assert mine.n_samples_seen_.tolist() == [40, 20]
    np.testing.assert_allclose(mine.mean_, x.mean(0), rtol=1e-14)


@pytest.mark.parametrize("offset", [0.0, 1e8])
@pytest.mark.parametrize("weighted", [False, True])
def test_many_columns_with_nan_are_read_at_once(offset, weighted, monkeypatch):
    x = with_nan(normals((40, 5000), offset=offset), 0.5)
    x[:, :100] = np.where(np.isnan(x[:, :100]), np.nan, 0.1)
    x[:, 100] = np.nan
    w = np.random.default_rng(5).integers(0, 4, 40) if weighted else np.ones(40, int)
    calls, whole = [], fastbn.batch_stats
    monkeypatch.setattr(fastbn, "batch_stats", lambda *a, **k: calls.append(a) or whole(*a, **k))
    mine = StandardScaler().fit(x, sample_weight=w if weighted else None)
    assert len(calls) < 5
    assert mine.var_[:100].tolist() == [0] * 100
    for j in (0, *range(100, 5000, 100)):
        there = ~np.isnan(x[:, j])
        assert mine.n_samples_seen_[j] == w[there].sum()
        if w[there].any():
            mean, var = exact(np.repeat(x[there, j], w[there])[:, None])
            np.testing.assert_allclose(mine.mean_[j], mean[0], rtol=1e-14, atol=1e-15)
            np.testing.assert_allclose(mine.var_[j], var[0], rtol=1e-14, atol=0)
    twice = StandardScaler().partial_fit(x, sample_weight=w).partial_fit(x, sample_weight=w)
    np.testing.assert_allclose(twice.var_, mine.var_, rtol=1e-14)


def test_merging_columns_of_many_counts():
    parts = [with_nan(normals((99, 300), offset=1e8), 0.5, seed=i) for i in range(2)]
    first, second = (StandardScaler().fit(part) for part in parts)
    assert len(np.unique(first.n_samples_seen_)) > 20
    joined = first.merge(second)
    for j, column in enumerate(np.concatenate(parts).T):
        mean, var = exact(column[~np.isnan(column)][:, None])
        np.testing.assert_allclose(joined.mean_[j], mean[0], rtol=3e-16)
        np.testing.assert_allclose(joined.var_[j], var[0], rtol=1e-14)


def test_merge_is_in_place_and_leaves_others():
    x = normals((30, 3))
    a, b, c = (StandardScaler().fit(part) for part in np.split(x, 3))
    before = b.mean_.copy(), b.n_samples_seen_
    assert a.merge(b, c) is a
    assert_same(a, StandardScaler().fit(x), rtol=1e-14)
    assert (b.mean_ == before[0]).all()
    assert b.n_samples_seen_ == before[1]
    a.partial_fit(x[:5])
    assert a.n_samples_seen_ == 35
    assert StandardScaler().fit(x).merge().n_samples_seen_ == 30


def test_merge_goes_through_pickles():
    x = normals((3000, 2), offset=1e8)
    parts = [pickle.loads(pickle.dumps(StandardScaler().fit(part))) for part in np.split(x, 100)]
    joined = reduce(StandardScaler.merge, parts)
    np.testing.assert_allclose(joined.var_, exact(x)[1], rtol=1e-15)


def test_merge_refuses_what_does_not_belong_together():
    mine = StandardScaler().fit(ROWS)
    before = mine.n_samples_seen_
    with pytest.raises(NotFittedError):
        mine.merge(StandardScaler())
    with pytest.raises(ValueError, match="others should all have the same features"):
        mine.merge(StandardScaler().fit(np.ones((3, 5))))
    with pytest.raises(TypeError, match=r"got sklearn.preprocessing._data.StandardScaler"):
        mine.merge(preprocessing.StandardScaler().fit(ROWS))
    with pytest.raises(ValueError, match="others should contain a fitted scaler, got none"):
        StandardScaler().merge()
    assert mine.n_samples_seen_ == before


# --- the estimator ------------------------------------------------------------------------------


def test_fit_forgets():
    mine = StandardScaler().fit(normals((10, 4)))
    mine.fit(ROWS)
    assert mine.n_samples_seen_ == 3
    assert mine.n_features_in_ == 2


@pytest.mark.parametrize("copy", [True, False])
def test_copy(copy):
    x = normals((10, 3))
    given = x.copy()
    y = StandardScaler(copy=copy).fit(given).transform(given)
    assert (y is given) == (not copy)
    assert (given == x).all() == copy
    mine = StandardScaler(copy=copy).fit(x)
    given = x.copy()
    assert (mine.transform(given, copy=not copy) is given) == copy
    given = x.copy()
    assert (mine.inverse_transform(given) is given) == (not copy)


def test_what_cannot_be_written_is_copied():
    x = normals((10, 3))
    x.setflags(write=False)
    y = StandardScaler(copy=False).fit(x).transform(x)
    assert y is not x
    integers = np.arange(6).reshape(3, 2)
    assert StandardScaler(copy=False).fit(integers).transform(integers).dtype == np.float64
    assert integers.tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library):
    frames = pytest.importorskip(library)
    frame = frames.DataFrame({"small": ROWS[:, 0], "large": ROWS[:, 1]})
    if not hasattr(preprocessing.StandardScaler().fit(frame), "feature_names_in_"):
        pytest.skip(f"this scikit-learn does not see the names of {library}")
    mine = StandardScaler().set_output(transform=library)
    y = mine.fit_transform(frame)
    assert isinstance(y, frames.DataFrame)
    assert list(y.columns) == ["small", "large"]
    assert mine.feature_names_in_.tolist() == ["small", "large"]
    assert mine.get_feature_names_out().tolist() == ["small", "large"]
    np.testing.assert_allclose(y.to_numpy(), preprocessing.scale(ROWS), rtol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(mine.inverse_transform(y.to_numpy()), ROWS, atol=1e-13)
    with pytest.raises(ValueError, match="feature names"):
        mine.partial_fit(frame[["large", "small"]])
    other = StandardScaler().fit(frame[["large", "small"]])
    with pytest.raises(ValueError, match="others should all have the same features"):
        mine.merge(other)
    assert StandardScaler().merge(mine).feature_names_in_.tolist() == ["small", "large"]


@pytest.mark.parametrize("rows", [3, np.nan])
def test_the_shape_of_a_dask_array_is_looked_at(rows):
    array = pytest.importorskip("dask.array")
    x = array.from_array(ROWS)
    x = x if rows == 3 else x[x[:, 0] >= 0]  # of so many rows as nobody knows yet
    mine = StandardScaler()
    assert mine._validated(x, reset=True) is x
    assert mine.n_features_in_ == 2
    with pytest.raises(ValueError, match="0 sample"):
        mine._validated(array.from_array(ROWS[:0]), reset=True)


def test_frames_with_missing_values():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": pandas.array([1.0, None, 3.0], dtype="Float64")})
    mine = StandardScaler().fit(frame)
    assert mine.mean_.tolist() == [2.0]
    assert mine.n_samples_seen_ == 2


def test_pipelines_and_routed_weights():
    x, y = normals((40, 3)), np.arange(40.0)
    model, expected = (
        make_pipeline(kind(), Ridge()).fit(x, y)
        for kind in (StandardScaler, preprocessing.StandardScaler)
    )
    np.testing.assert_allclose(model.predict(x), expected.predict(x), rtol=1e-9)
    with sklearn.config_context(enable_metadata_routing=True):
        scaler = StandardScaler().set_fit_request(sample_weight=True)
        routed = make_pipeline(scaler, Ridge().set_fit_request(sample_weight=False))
        routed.fit(x, y, sample_weight=np.arange(40.0))
        assert routed[0].n_samples_seen_ == 780
    assert StandardScaler().fit_transform(x, sample_weight=np.ones(40)).shape == (40, 3)


def test_tags_say_what_is_taken():
    tags = StandardScaler().__sklearn_tags__()
    assert tags.input_tags.allow_nan
    assert not tags.input_tags.sparse
    assert not StandardScaler(with_mean=False).__sklearn_tags__().input_tags.sparse


# --- Dask arrays --------------------------------------------------------------------------------


@pytest.fixture
def da():
    """Dask's arrays, computed in this thread."""
    found = pytest.importorskip("dask.array")
    with pytest.importorskip("dask").config.set(scheduler="synchronous"):
        yield found


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
@pytest.mark.parametrize("chunks", [(7, 5), (50, 2), (13, (1, 3, 1))])
@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_dask_arrays(da, dtype, chunks, nan, weighted):
    if nan and dtype == np.int32:
        pytest.skip("integers have no NaN")
    x = normals((50, 5)).astype(dtype)
    x = with_nan(x, columns=[1, 3]) if nan else x
    w = np.random.default_rng(4).random(50) if weighted else None
    lazy = da.from_array(x, chunks=chunks)
    mine = StandardScaler().fit(lazy, sample_weight=w)
    whole = StandardScaler().fit(x, sample_weight=w)
    assert_same(mine, whole, rtol=1e-13, atol=1e-15)
    y = mine.transform(lazy)
    assert isinstance(y, da.Array)
    assert y.chunks == lazy.chunks
    expected = whole.transform(x)
    assert y.dtype == expected.dtype
    np.testing.assert_allclose(y.compute(), expected, rtol=1e-5, atol=1e-6)
    back = mine.inverse_transform(y)
    assert isinstance(back, da.Array)
    np.testing.assert_allclose(back.compute(), x, rtol=1e-4, atol=1e-4)
    mine.partial_fit(lazy, sample_weight=w).partial_fit(x, sample_weight=w).merge(whole)
    parts = StandardScaler().fit(np.tile(x, (4, 1)), None, None if w is None else np.tile(w, 4))
    assert_same(mine, parts, rtol=1e-13, atol=1e-15)


def test_dask_arrays_are_read_together_for_all_columns_that_have_nan(da):
    calls = []

    def make(block_info=None):
        calls.append(block_info[None]["chunk-location"])
        return with_nan(normals((10, 40)))

    lazy = da.map_blocks(make, chunks=((10,) * 5, (40,)), dtype=float, meta=np.empty((0, 0)))
    mine = StandardScaler().fit(lazy)
    assert np.ptp(mine.n_samples_seen_) > 0
    assert len(calls) <= 5 * 5  # of 5 chunks: statistics, counts, and with two or three fills


@pytest.mark.parametrize("nan", [False, True])
def test_one_weight_for_all_rows_of_a_dask_array(da, nan):
    x = normals((40, 3))
    if nan:
        x[3, 1] = np.nan
    mine = StandardScaler().fit(da.from_array(x, chunks=(7, 2)), sample_weight=2.5)
    whole = StandardScaler().fit(x, sample_weight=2.5)
    np.testing.assert_allclose(mine.var_, whole.var_, rtol=1e-12)
    np.testing.assert_allclose(mine.n_samples_seen_, whole.n_samples_seen_)
    with pytest.raises(ValueError, match=r"sample_weight should have one axis, got.*\(40, 1\)"):
        StandardScaler().fit(da.from_array(x), sample_weight=np.ones((40, 1)))


def test_errors_of_dask_arrays(da):
    x = normals((20, 3))
    mine = StandardScaler().fit(x)
    before = pickle.dumps(mine)
    infinite = x.copy()
    infinite[7, 2] = np.inf
    infinite[8, 1] = np.nan
    with pytest.raises(ValueError, match=r"Input X contains infinity in columns \[2\]"):
        mine.fit(da.from_array(infinite, chunks=5))
    for method in ("partial_fit", "transform", "inverse_transform"):
        with pytest.raises(ValueError, match=r"features|shape"):
            getattr(mine, method)(da.from_array(x[:, :2], chunks=5))
    for bad in (x[:, 0], np.ones((2, 3, 4))):
        with pytest.raises(ValueError, match=r"dim|2D"):
            mine.fit(da.from_array(bad))
    with pytest.raises(ValueError, match="0 sample"):
        mine.fit(da.from_array(x[:0]))
    with pytest.raises(ValueError, match="weights should have shape"):
        mine.fit(da.from_array(x, chunks=5), sample_weight=np.ones(19))
    with pytest.raises(ValueError, match="a weight above 0"):
        mine.fit(da.from_array(x, chunks=5), sample_weight=np.zeros(20))
    unknown = da.from_array(x, chunks=5)
    with pytest.raises(ValueError, match="known lengths"):
        mine.fit(unknown[unknown[:, 0] > 3])
    with pytest.raises((TypeError, ValueError), match=r"(?i)complex"):
        mine.fit(da.from_array(x.astype(complex), chunks=5))
    assert pickle.dumps(mine) == before


# --- errors: nothing is changed -----------------------------------------------------------------

BAD = {
    "sparse": (TypeError, "(?i)sparse", csr_array(ROWS)),
    "infinity": (ValueError, "infinity", np.array([[1.0, np.inf], [2.0, 3.0]])),
    "infinity and NaN": (ValueError, "infinity", np.array([[np.nan, 1.0], [-np.inf, 3.0]])),
    "one axis": (ValueError, "2D array", ROWS[0]),
    "no rows": (ValueError, "0 sample", ROWS[:0]),
    "strings": (ValueError, "could not convert|numeric", np.array([["a", "b"]])),
    "complex": (ValueError, "(?i)complex", ROWS.astype(complex)),
    "columns": (ValueError, "features|shape", np.ones((3, 5))),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("method", ["fit", "partial_fit", "transform", "inverse_transform"])
def test_bad_input(method, name):
    kind, words, x = BAD[name]
    if name == "columns" and method == "fit":
        pytest.skip("fit takes any number")
    mine = StandardScaler().fit(ROWS)
    before = pickle.dumps(mine)
    with pytest.raises(kind, match=words):
        getattr(mine, method)(x)
    assert pickle.dumps(mine) == before


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0, 2.0], "inconsistent numbers of samples"),
        ([[1.0], [1.0], [1.0]], "one axis"),
        ([1.0, np.nan, 1.0], "(?i)sample_weight contains NaN"),
        ([1.0, -1.0, 1.0], "weights"),
        ([0.0, 0.0, 0.0], "a weight above 0"),
        (["a", "b", "c"], "could not convert"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_bad_weights(method, weights, words):
    mine = StandardScaler().fit(ROWS[:, :1])
    before = pickle.dumps(mine)
    with pytest.raises(ValueError, match=words):
        getattr(mine, method)(ROWS[:, : 2 if method == "fit" else 1], sample_weight=weights)
    assert pickle.dumps(mine) == before


@pytest.mark.parametrize("name", ["copy", "with_mean", "with_std"])
def test_bad_arguments(name):
    with pytest.raises(ValueError, match=f"{name} should be True or False, got 'yes'"):
        StandardScaler(**{name: "yes"}).fit(ROWS)


@pytest.mark.parametrize("with_mean", [True, False])
@pytest.mark.parametrize("with_std", [True, False])
def test_attributes_set_by_hand_transform(with_mean, with_std):
    mine, other = StandardScaler(), preprocessing.StandardScaler()
    for scaler in (mine, other):
        scaler.set_params(with_mean=with_mean, with_std=with_std)
        scaler.mean_, scaler.scale_ = np.array([1.0, 2.0]), np.array([2.0, 3.0])
    for method in ("transform", "inverse_transform"):
        expected = getattr(other, method)(ROWS)
        np.testing.assert_allclose(getattr(mine, method)(ROWS), expected, rtol=1e-14)


def test_not_fitted():
    for method in ("transform", "inverse_transform"):
        with pytest.raises(NotFittedError):
            getattr(StandardScaler(), method)(ROWS)
