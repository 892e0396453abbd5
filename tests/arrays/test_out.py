"""Where results go: `out=`, aliasing, and the arrays that must be left alone."""

from functools import cache

import numpy as np
import pytest
import reference
from data import DTYPES, LAYOUTS, channels_last, normals, problem, readonly

import fastbn

MEMORIES = {
    "contiguous": np.empty_like,
    "channels_last": lambda x: channels_last(np.empty_like(x)),
    "strided": lambda x: LAYOUTS["strided"](np.empty_like(x)),
    "reversed": lambda x: LAYOUTS["reversed"](np.empty_like(x)),
    "misaligned": lambda x: LAYOUTS["misaligned"](np.zeros_like(x)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (70, 40, 6, 6), (300, 7)])
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
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (70, 40, 6, 6), (300, 7)])
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


# --- what is refused ------------------------------------------------------------------------------

X = normals((4, 3, 5), np.float32)


@cache
def kept():
    return fastbn.forward(X)[1]


def overlap(shift=1):
    """An array and another that starts `shift` values further into the same memory."""
    raw = np.zeros(X.size + shift, np.float32)
    return raw[: X.size].reshape(X.shape), raw[shift:].reshape(X.shape)


def forward_onto_itself():
    x = X.copy()
    fastbn.forward(x, out=x)


def forward_onto_a_view_of_itself():
    x = X.copy()
    fastbn.forward(x, out=x[::-1])


def normalize_shifted():
    x, out = overlap()
    fastbn.normalize(x, kept().stats, out=out)


def batch_norm_reversed():
    x = X.copy()
    fastbn.batch_norm(x, training=True, out=x[::-1])


def backward_shifted():
    dy, out = overlap(5)
    fastbn.backward(dy, kept(), out=out)


def backward_onto_x():
    x = X.copy()
    _, saved = fastbn.forward(x)
    fastbn.backward(X, saved, out=x[:, ::-1])


ERRORS = {
    "out read-only": (
        lambda: fastbn.forward(X, out=readonly(X.shape, np.float32)),
        ValueError,
        "out.*read-only",
    ),
    "out's shape": (
        lambda: fastbn.normalize(X, kept().stats, out=np.zeros((4, 3), np.float32)),
        ValueError,
        r"out.*(\(4, 3\).*\(4, 3, 5\)|\(4, 3, 5\).*\(4, 3\))",
    ),
    "out's dtype": (
        lambda: fastbn.batch_norm(X, training=True, out=np.zeros(X.shape)),
        (ValueError, TypeError),
        "out.*(float64.*float32|float32.*float64)",
    ),
    "out a list": (lambda: fastbn.forward(X, out=[1.0]), (ValueError, TypeError), "out"),
    "backward out's shape": (
        lambda: fastbn.backward(X, kept(), out=np.zeros((3, 4, 5), np.float32)),
        ValueError,
        r"out.*\(3, 4, 5\)",
    ),
    "backward out read-only": (
        lambda: fastbn.backward(X, kept(), out=readonly(X.shape, np.float32)),
        ValueError,
        "out.*read-only",
    ),
    "backward out's dtype": (
        lambda: fastbn.backward(X, kept(), out=np.zeros(X.shape)),
        (ValueError, TypeError),
        "out.*float",
    ),
    "forward onto x": (forward_onto_itself, ValueError, "out.*overlap x"),
    "forward onto a view of x": (forward_onto_a_view_of_itself, ValueError, "out.*overlap x"),
    "normalize, overlap": (normalize_shifted, ValueError, "out.*overlap"),
    "batch_norm, overlap": (batch_norm_reversed, ValueError, "out.*overlap"),
    "backward, overlap with dy": (backward_shifted, ValueError, "out.*overlap"),
    "backward, overlap with x": (backward_onto_x, ValueError, "out.*overlap"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error(name):
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=f"(?s){message}"):
        call()
