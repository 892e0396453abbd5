"""Any array: every rank, axis, stride, byte order and vector tail, against the oracle."""

import numpy as np
import pytest
import reference
from data import DTYPES, LAYOUTS, arrays, channels_last, normals, order, problem
from hypothesis import given

import fastbn


def assert_like_oracle(x, dy, weight, bias, channel_axis=1):
    """Forward and backward within a few units in the last place of their own size.

    float64 statistics, to which float32 owes its digits far from zero, have no wider type behind.
    """
    y, saved = fastbn.forward(x, weight, bias, channel_axis=channel_axis)
    grads = fastbn.backward(dy, saved)
    native = x.dtype.newbyteorder("=")
    assert y.shape == grads.dx.shape == x.shape
    assert y.dtype == grads.dx.dtype == native
    mean, var = reference.statistics(x, channel_axis)
    # float32 is summed in float32, eight terms at a time
    eps = np.finfo(native).eps if native == np.float32 else 64 * np.finfo(native).eps
    assert np.all(np.abs(saved.stats.mean - mean) <= eps * (np.abs(mean) + np.sqrt(var)))
    np.testing.assert_allclose(saved.stats.var(), var, rtol=64 * eps, atol=0)
    offset = np.max(np.abs(mean) / np.sqrt(var + 1e-5)) if native == np.float64 else 0
    unit = (16 + 4 * (1 + offset)) * np.finfo(native).eps
    expected = reference.forward(x, weight, bias, channel_axis=channel_axis)
    np.testing.assert_allclose(y, expected, rtol=0, atol=unit * (1 + np.abs(expected).max()))
    truth = reference.backward(dy, x, weight, channel_axis=channel_axis)
    size = np.max(np.abs(weight) / np.sqrt(var + 1e-5)) * np.abs(dy).max()
    np.testing.assert_allclose(grads.dx, truth[0], rtol=0, atol=4 * unit * size)
    terms = unit * np.abs(dy).max() * np.sqrt(x.size / len(mean)) * 4
    np.testing.assert_allclose(grads.dweight, truth[1], rtol=0, atol=terms)
    np.testing.assert_allclose(grads.dbias, truth[2], rtol=0, atol=terms)


@given(arrays())
def test_any_array(case):
    assert_like_oracle(*case)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape", [(4, 3, 5, 6), (3, 130, 2, 2), (2, 3, 400), (37, 21), (70, 3, 18, 19)]
)
def test_every_layout(shape, layout, dtype):
    x, dy, weight, bias = problem(shape, dtype)
    before = x.copy()
    assert_like_oracle(LAYOUTS[layout](x), LAYOUTS[layout](dy), weight, bias)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_length_of_a_row(dtype):
    for length in [*range(1, 71), 127, 129, 255, 257, 511, 513, 1023, 1025]:
        assert_like_oracle(*problem((5, 3, length), dtype, seed=length))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_of_columns(dtype):
    for columns in [*range(1, 71), *range(1000, 1101, 7), 2049]:
        assert_like_oracle(*problem((9, columns), dtype, seed=columns))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_of_samples(dtype):
    for samples in [*range(2, 40), 63, 64, 65, 127, 128, 129]:
        assert_like_oracle(*problem((samples, 5), dtype, seed=samples))
        assert_like_oracle(*problem((samples, 3, 6), dtype, seed=samples))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 2, 7, 15, 49, 63, 65, 70, 196, 783, 785, 2047])
def test_tails_of_large_batches(length, dtype):
    channels = 5 if length > 70 else 33
    samples = 70_000 // (channels * length) + 3
    assert_like_oracle(*problem((samples, channels, length), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 200_003), (1, 3, 70_001), (200_003, 1), (70_001, 3), (2, 40_001), (2, 40_001, 1)],
)
def test_lopsided_shapes(shape, dtype):
    assert_like_oracle(*problem(shape, dtype))


def test_many_axes():
    assert_like_oracle(*problem((2, 3, 1, 2, 4, 1, 3), np.float32))
    case = problem((2, 1, 3, 2, 1, 5), np.float64, channel_axis=3)
    assert_like_oracle(*case, channel_axis=3)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -4])
def test_every_channel_axis(axis):
    shape = (6, 4, 5, 7)
    assert_like_oracle(*problem(shape, np.float64, channel_axis=axis), channel_axis=axis)


@pytest.mark.parametrize("dtype", DTYPES)
def test_broadcast_input(dtype):
    row = normals((1, 3, 20), dtype)
    x = np.broadcast_to(row, (6, 3, 20))
    dy = np.broadcast_to(dtype(0.5), x.shape)
    assert_like_oracle(x, dy, np.ones(3, dtype), np.zeros(3, dtype))


@pytest.mark.parametrize("dy_layout", LAYOUTS)
@pytest.mark.parametrize("x_layout", LAYOUTS)
def test_dy_in_another_layout_than_x(x_layout, dy_layout):
    x, dy, weight, bias = problem((4, 3, 5, 6), np.float32)
    assert_like_oracle(LAYOUTS[x_layout](x), LAYOUTS[dy_layout](dy), weight, bias)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 30, 7), (2, 3, 4, 5, 6), (64, 40, 14, 14)])
def test_memory_order_is_kept(shape, dtype):
    x, dy, weight, bias = problem(shape, dtype)
    for memory in (np.ascontiguousarray, channels_last):
        z, dz = memory(x), memory(dy)
        y, saved = fastbn.forward(z, weight, bias)
        dx = fastbn.backward(dz, saved).dx
        for result in (
            y,
            dx,
            fastbn.normalize(z, saved.stats),
            fastbn.batch_norm(z, training=True),
        ):
            assert order(result) == order(z)
            assert result.strides == z.strides


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.int64, bool])
def test_integers_and_booleans_compute_as_float64(kind):
    x = np.random.default_rng(0).integers(0, 2 if kind is bool else 100, (20, 3, 5)).astype(kind)
    y, saved = fastbn.forward(x)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, reference.forward(x), rtol=1e-13, atol=1e-14)
    dy = normals(x.shape)
    dx, dweight, dbias = fastbn.backward(dy, saved)[:3]
    assert dx.dtype == dweight.dtype == dbias.dtype == np.float64
    np.testing.assert_allclose(dx, reference.backward(dy, x)[0], rtol=1e-11, atol=1e-13)


def test_integers_beyond_float32():
    x = 2**40 + np.arange(12).reshape(6, 2)
    np.testing.assert_array_equal(fastbn.batch_stats(x).mean, [2**40 + 5, 2**40 + 6])


def test_array_likes():
    y, saved = fastbn.forward([[1, 2], [3, 6]], weight=[1, 1], bias=(0, 0), eps=0.0)
    np.testing.assert_array_equal(y, [[-1, -1], [1, 1]])
    np.testing.assert_array_equal(saved.stats.mean, [2, 4])
    assert fastbn.backward([[1.0, 2.0], [3.0, 6.0]], saved).dbias.tolist() == [4, 8]


@pytest.mark.parametrize("dtype", DTYPES)
def test_parameters_of_any_memory_and_dtype(dtype):
    x, dy, weight, bias = problem((6, 4, 9), dtype)
    y, saved = fastbn.forward(x, weight, bias)
    grads = fastbn.backward(dy, saved)
    for change in (LAYOUTS["strided"], LAYOUTS["reversed"], LAYOUTS["byteswapped"], np.float64):
        y2, saved2 = fastbn.forward(x, change(weight), change(bias))
        np.testing.assert_array_equal(y2, y)
        for one, two in zip(fastbn.backward(dy, saved2)[:3], grads[:3], strict=True):
            assert one.dtype == two.dtype == dtype
            np.testing.assert_array_equal(one, two)
