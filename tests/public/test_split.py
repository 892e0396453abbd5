"""The backward pass in two halves: parts of a batch have the gradient of the whole."""

import pickle

import numpy as np
import pytest
import reference
from data import DTYPES, HALVES, LAYOUTS, normals, problem

import fastbn
from fastbn import GradSums, backward_input, backward_sums, batch_stats, merge_stats

SIZES = {
    "0, 1, 7, 12": [0, 1, 7, 12],
    "one value": [1, 1, 3],
    "all but one empty": [0, 5, 0, 0],
    "two": [2, 2],
}


def cut(sizes):
    ends = np.cumsum(sizes)
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def in_parts(dy, x, sizes, weight=None, *, eps=1e-5, channel_axis=1):
    """dx and the sums of a batch whose parts know only each other's statistics and sums."""
    parts, settings = cut(sizes), {"eps": eps, "channel_axis": channel_axis}
    stats = merge_stats([batch_stats(x[part], channel_axis=channel_axis) for part in parts])
    each = [backward_sums(dy[part], x[part], stats, **settings) for part in parts]
    sums = each[0]
    for more in each[1:]:
        sums = sums + more
    dx = [backward_input(dy[part], x[part], stats, sums, weight, **settings) for part in parts]
    return np.concatenate(dx), sums


def assert_whole(dy, x, sizes, weight, tolerance, **settings):
    dx, sums = in_parts(dy, x, sizes, weight, **settings)
    expected = reference.backward(dy, x, weight, **settings)
    assert dx.dtype == x.dtype.newbyteorder("=")
    np.testing.assert_allclose(dx, expected.dx, atol=tolerance * abs(expected.dx).max())
    spread = tolerance * np.sqrt(x.size) * abs(dy).max()
    np.testing.assert_allclose(sums.sum_dy, expected.dbias, atol=spread)
    np.testing.assert_allclose(sums.sum_dy_xhat, expected.dweight, atol=spread)
    return dx


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("tail", [(), (3,), (7, 6), (130,)])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_make_the_whole(dtype, sizes, tail, axis):
    shape = (sum(sizes), *tail, 5) if axis == -1 else (sum(sizes), 5, *tail)
    x, dy, weight, _ = problem(shape, dtype, channel_axis=axis)
    assert_whole(dy, x, sizes, weight, 1e-10 if dtype == np.float64 else 4e-6, channel_axis=axis)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_memory(dtype, layout):
    x, dy, weight, _ = problem((6, 5, 7), dtype)
    x, dy = LAYOUTS[layout](x), LAYOUTS[layout](dy)
    assert_whole(dy, x, [2, 4], weight, 1e-10 if dtype == np.float64 else 4e-6)


@pytest.mark.parametrize("eps", [0.0, 1e-5, 1.0])
def test_one_part_is_backward(eps):
    """With statistics of this process: the same kernels, sums rounded on their way."""
    for dtype in (*DTYPES, *HALVES):
        x, dy, weight, _ = problem((6, 5, 30), np.float64)
        x, dy, weight = x.astype(dtype), dy.astype(dtype), weight.astype(np.float32)
        _, saved = fastbn.forward(x, weight, eps=eps)
        whole = fastbn.backward(dy, saved)
        sums = backward_sums(dy, x, saved.stats, eps=eps)
        np.testing.assert_allclose(sums.sum_dy_xhat, whole.dweight, rtol=1e-6)
        np.testing.assert_allclose(sums.sum_dy, whole.dbias, rtol=1e-6)
        dx = backward_input(dy, x, saved.stats, sums, weight, eps=eps)
        ulp = np.finfo(np.float32).eps if dtype != np.float64 else np.finfo(float).eps
        close = dx.astype(float) - whole.dx.astype(float)
        rounding = ulp if dtype in DTYPES else 2.0**-7
        assert abs(close).max() <= 4 * rounding * abs(whole.dx.astype(float)).max()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_far_from_zero(offset, layout):
    """As exact as the whole: the oracle's own mean is rounded, so exact fractions decide."""
    x, dy, _, _ = problem((20, 3, 12), offset=offset)
    sizes = SIZES["0, 1, 7, 12"]
    dx, _ = in_parts(LAYOUTS[layout](dy), LAYOUTS[layout](x), sizes)
    for channel in range(3):
        rows = dy[:, channel].ravel(), x[:, channel].ravel()
        exact = reference.exact_backward(*rows, eps=1e-5)[0].reshape(20, 12)
        np.testing.assert_allclose(dx[:, channel], exact, atol=1e-9)


def test_several_workers_are_not_one():
    """The test above can fail: sums of a part alone give another gradient."""
    x, dy, _, _ = problem((8, 3, 4))
    whole, _ = in_parts(dy, x, [8])
    alone = [in_parts(dy[part], x[part], [4])[0] for part in cut([4, 4])]
    assert abs(np.concatenate(alone) - whole).max() > 1e-3


def test_statistics_as_a_pair_have_sums_but_no_count():
    x, dy, _, _ = problem((8, 3, 4))
    mean, var = normals(3), np.ones(3)
    sums = backward_sums(dy, x, (mean, var))
    _, saved = fastbn.forward(x, stats=(mean, var))
    expected = fastbn.backward(dy, saved)
    np.testing.assert_allclose(sums.sum_dy, expected.dbias, rtol=1e-12)
    np.testing.assert_allclose(sums.sum_dy_xhat, expected.dweight, rtol=1e-12)
    with pytest.raises(TypeError, match="which has a count"):
        backward_input(dy, x, (mean, var), sums)


def test_a_constant_channel_and_eps_0():
    x, dy, _, _ = problem((8, 3, 4))
    x[:, 1] = 7.0
    dx, sums = in_parts(dy, x, [3, 5], eps=0.0)
    assert not dx[:, 1].any()
    assert sums.sum_dy_xhat[1] == 0
    np.testing.assert_allclose(sums.sum_dy, dy.sum(axis=(0, 2)))


def test_all_empty():
    x, stats = np.empty((0, 3, 4)), fastbn.Stats.empty(3)
    sums = backward_sums(x, x, stats)
    assert not sums.sum_dy.any()
    assert backward_input(x, x, stats, sums).shape == x.shape


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "reversed"])
def test_dx_in_the_place_of_dy(layout):
    x, dy, weight, _ = problem((8, 3, 40), np.float32)
    x, dy, stats = LAYOUTS[layout](x), LAYOUTS[layout](dy), batch_stats(x)
    sums = backward_sums(dy, x, stats)
    expected = backward_input(dy, x, stats, sums, weight)
    assert backward_input(dy, x, stats, sums, weight, out=dy) is dy
    np.testing.assert_array_equal(dy, expected)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_any_number_of_threads_has_the_same_bits(threads, keep_threads):
    x, dy, weight, _ = problem((16, 8, 33, 31), np.float32)
    stats = batch_stats(x)
    fastbn.set_num_threads(4)
    sums = backward_sums(dy, x, stats)
    expected = backward_input(dy, x, stats, sums, weight)
    fastbn.set_num_threads(threads)
    again = backward_sums(dy, x, stats)
    np.testing.assert_array_equal(again.sum_dy_xhat, sums.sum_dy_xhat)
    np.testing.assert_array_equal(backward_input(dy, x, stats, sums, weight), expected)


def test_calls_of_other_kinds_between_do_not_disturb():
    """Workspaces are shared: what a part puts there is nobody else's."""
    x, dy, weight, bias = problem((6, 5, 30), np.float32)
    _, saved = fastbn.forward(x, weight, bias, activation="relu")
    expected = fastbn.backward(dy, saved)
    sums = backward_sums(dy, x, batch_stats(x))
    before = sums.sum_dy.copy(), sums.sum_dy_xhat.copy()
    again = fastbn.backward(dy, saved)
    for one, two in zip(expected[:3], again[:3], strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal((sums.sum_dy, sums.sum_dy_xhat), before)


def test_sums_are_frozen_float64_and_picklable():
    sums = GradSums([1, 2], np.array([3, 4], np.float32))
    assert sums.sum_dy.dtype == sums.sum_dy_xhat.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        sums.sum_dy[0] = 5
    with pytest.raises(AttributeError):
        sums.sum_dy = sums.sum_dy_xhat
    again = pickle.loads(pickle.dumps(sums))
    np.testing.assert_array_equal(again.sum_dy_xhat, [3, 4])
    assert not again.sum_dy.flags.writeable
    np.testing.assert_array_equal((sums + again).sum_dy, [2, 4])


def test_several_channel_axes():
    x, dy = normals((6, 3, 4, 5)), normals((6, 3, 4, 5), seed=1)
    weight = normals((4, 3), seed=2)
    stats = batch_stats(x, channel_axis=(2, 1))
    sums = backward_sums(dy, x, stats, channel_axis=(2, 1))
    dx = backward_input(dy, x, stats, sums, weight, channel_axis=(2, 1))
    _, saved = fastbn.forward(x, weight, channel_axis=(2, 1))
    np.testing.assert_allclose(dx, fastbn.backward(dy, saved).dx, atol=1e-14)
