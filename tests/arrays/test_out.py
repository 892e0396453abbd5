"""Where results go: `out=`, aliasing, and the arrays that must be left alone."""

import numpy as np
import pytest
import reference
from data import DTYPES, LAYOUTS, channels_last, normals, problem

import fastbn

SHAPES = [(4, 3, 5, 6), (70, 40, 6, 6), (300, 7)]
MEMORIES = {
    "contiguous": np.empty_like,
    "channels_last": lambda x: channels_last(np.empty_like(x)),
    "strided": lambda x: LAYOUTS["strided"](np.empty_like(x)),
    "reversed": lambda x: LAYOUTS["reversed"](np.empty_like(x)),
    "misaligned": lambda x: LAYOUTS["misaligned"](np.zeros_like(x)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_out_of_any_strides(shape, memory, dtype):
    x, dy, weight, bias = problem(shape, dtype)
    out = MEMORIES[memory](x)
    y, saved = fastbn.forward(x, weight, bias)
    dx = fastbn.backward(dy, saved).dx

    def check(got, expected):
        assert got is out
        np.testing.assert_allclose(got, expected, rtol=0, atol=8 * np.finfo(dtype).eps * 8)
        out[...] = 0

    check(fastbn.forward(x, weight, bias, out=out)[0], y)
    check(fastbn.normalize(x, saved.stats, weight, bias, out=out), y)
    check(fastbn.batch_norm(x, None, None, weight, bias, True, out=out), y)
    check(fastbn.backward(dy, saved, out=out).dx, dx)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "reversed"])
@pytest.mark.parametrize("shape", SHAPES)
def test_exact_aliasing_is_allowed(shape, layout):
    x, dy, weight, bias = problem(shape)
    y, saved = fastbn.forward(x, weight, bias)
    dx = fastbn.backward(dy, saved).dx

    def check(call, source, expected):
        z = LAYOUTS[layout](source).copy(order="K")
        assert call(z) is z
        np.testing.assert_allclose(z, expected, rtol=0, atol=1e-13)

    check(lambda z: fastbn.batch_norm(z, None, None, weight, bias, True, out=z), x, y)
    check(lambda z: fastbn.normalize(z, saved.stats, weight, bias, out=z), x, y)
    check(lambda z: fastbn.backward(z, saved, out=z).dx, dy, dx)


def test_out_may_share_a_buffer_without_overlap():
    both = normals((2, 30, 4))
    y, _ = fastbn.forward(both[0], out=both[1])
    np.testing.assert_allclose(y, reference.forward(both[0]), atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_are_never_written(layout, dtype):
    x, dy = (LAYOUTS[layout](a) for a in problem((6, 3, 5), dtype)[:2])
    weight, bias = np.ones(3, dtype), np.zeros(3, dtype)
    mean, var = np.zeros(3), np.ones(3)
    inputs = [x, dy, weight, bias, mean, var]
    copies = [a.copy() for a in inputs]
    for a in inputs:
        a.flags.writeable = False
    y, saved = fastbn.forward(x, weight, bias)
    fastbn.backward(dy, saved)
    fastbn.normalize(x, (mean, var), weight, bias)
    fastbn.batch_norm(x, mean, var, weight, bias)
    fastbn.batch_norm(x, None, None, weight, bias, training=True)
    fastbn.batch_stats(x)
    for a, copy in zip(inputs, copies, strict=True):
        np.testing.assert_array_equal(a, copy)
    assert not np.shares_memory(y, x)


def test_running_arrays_side_by_side_are_no_overlap():
    both = np.zeros(6)
    fastbn.batch_norm(normals((6, 3)), both[::2], both[1::2], training=True)
    assert both.all()
