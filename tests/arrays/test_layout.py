"""Any array: every rank, axis, stride and byte order, against the oracle."""

import numpy as np
import pytest
import reference
from agreement import assert_like_oracle
from data import DTYPES, LAYOUTS, arrays, channels_last, normals, order, problem
from hypothesis import given

import fastbn
from fastbn._kernels.abi import ALIASING_BYTES


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


def place(a):
    return a.ctypes.data % ALIASING_BYTES


@pytest.mark.parametrize("shape", [(70_000, 1), (3000, 3000)])
@pytest.mark.parametrize("offset", [0, 1, 20, 512, 513, 1023])
def test_large_outputs_lie_where_stores_do_not_hinder_loads(shape, offset):
    x = np.zeros(shape[0] * shape[1] + 2048, np.float32)
    dy = np.zeros_like(x)
    x = x[-x.ctypes.data % ALIASING_BYTES // 4 :][: shape[0] * shape[1]].reshape(shape)
    dy = dy[-dy.ctypes.data % ALIASING_BYTES // 4 + offset :][: x.size].reshape(shape)
    x[:: shape[0] // 2] = 1.0
    y, saved = fastbn.forward(x)
    assert place(y) == place(x) == 0
    behind = place(dy) if offset > 512 else place(x)  # of the two, modulo a page
    assert place(fastbn.backward(dy, saved).dx) == behind
