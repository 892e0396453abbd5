"""How calls are cut: streaming stores change no bit, whatever the alignment and the runs."""

import numpy as np
import pytest
from data import DTYPES, channels_last, problem

import fastbn
from fastbn import _layout, _plan

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
    return y, fastbn.backward(dy, saved).dx


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
    y, dx = results(channels_last(x), channels_last(dy), weight, bias)
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
