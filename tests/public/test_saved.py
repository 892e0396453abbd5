"""`Saved.of` and `Saved.with_input`: what `forward` saves, without its work or its input."""

import numpy as np
import pytest
from data import DTYPES, HALVES, LAYOUTS, normals, problem

import fastbn

SHAPES = [(12, 3), (4, 3, 5), (2, 3, 4, 6)]
EPILOGUES = {
    "plain": {},
    "residual": {"residual": True},
    "relu": {"activation": "relu"},
    "residual and leaky_relu": {
        "residual": True, "activation": "leaky_relu", "negative_slope": 0.3,
    },
}  # fmt: skip
each_epilogue = pytest.mark.parametrize("epilogue", EPILOGUES)
each_fixed = pytest.mark.parametrize("fixed", [False, True], ids=["of the batch", "fixed"])


def options_of(epilogue, shape, dtype):
    """An epilogue's arguments, with a residual of this shape if it has one."""
    options = dict(EPILOGUES[epilogue])
    if "residual" in options:
        options["residual"] = normals(shape, seed=9).astype(dtype)
    return options


def given_stats(fixed, shape, axis=1):
    channels = shape[axis]
    return (normals(channels, seed=5), 0.5 + np.arange(channels)) if fixed else None


def assert_same_gradients(dy, first, second):
    """Of what both saved, to the bit, and the statistics, and second derivatives."""
    for a, b in zip(fastbn.backward(dy, first), fastbn.backward(dy, second), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a is None or (a.dtype == b.dtype and a.strides == b.strides)
    np.testing.assert_array_equal(first.stats.to_array(), second.stats.to_array())
    np.testing.assert_array_equal(first.weight, second.weight)
    assert first.fixed is second.fixed
    if first.options is None:
        for a, b in zip(
            *(fastbn.double_backward(dy, saved, dy[::-1], None, None) for saved in (first, second)),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)


@each_epilogue
@each_fixed
@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "reversed"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_of_has_the_bits_of_forwards_own(shape, layout, dtype, fixed, epilogue):
    x, dy, weight, bias = problem(shape, dtype)
    x = LAYOUTS[layout](x)
    options = options_of(epilogue, shape, dtype)
    given = given_stats(fixed, shape)
    _, saved = fastbn.forward(x, weight, bias, eps=1e-3, stats=given, **options)
    stats = given if fixed else saved.stats
    made = fastbn.Saved.of(x, stats, weight, bias, eps=1e-3, fixed=fixed, **options)
    assert_same_gradients(dy, made, saved)


@pytest.mark.parametrize("lie", LAYOUTS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_of_a_residual_in_another_memory(layout, lie):
    x, dy, weight, bias = problem((2, 3, 4, 6), np.float32)
    options = {"residual": LAYOUTS[lie](normals(x.shape, np.float32, seed=9)), "activation": "relu"}
    x = LAYOUTS[layout](x)
    _, saved = fastbn.forward(x, weight, bias, **options)
    made = fastbn.Saved.of(x, saved.stats, weight, bias, **options)
    assert made.layout == saved.layout
    assert_same_gradients(dy, made, saved)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_of_a_residual_of_more_bits(dtype):
    x, dy, weight, bias = problem((2, 3, 4, 6), dtype)
    options = {"residual": normals(x.shape, np.float32, seed=9), "activation": "relu"}
    _, saved = fastbn.forward(x, weight, bias, **options)
    made = fastbn.Saved.of(x, saved.stats, weight, bias, **options)
    assert made.layout == saved.layout
    assert_same_gradients(dy, made, saved)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [0, 1, -1, (1, 2)], ids=str)
def test_of_any_axis_and_memory(axis, layout):
    x, dy, *_ = problem((4, 3, 2, 5))
    x = LAYOUTS[layout](x)
    _, saved = fastbn.forward(x, channel_axis=axis)
    assert_same_gradients(dy, fastbn.Saved.of(x, saved.stats, channel_axis=axis), saved)


@each_fixed
def test_of_statistics_that_were_sent_as_an_array(fixed):
    """As the operators of the adapter for PyTorch keep them."""
    x, dy, weight, _ = problem((4, 3, 5), np.float32, offset=1e4)
    _, saved = fastbn.forward(x, weight, stats=fastbn.batch_stats(x) if fixed else None)
    stats = fastbn.Stats.from_array(saved.stats.to_array())
    assert_same_gradients(dy, fastbn.Saved.of(x, stats, weight, fixed=fixed), saved)


@pytest.mark.parametrize("dtype", [np.int64, ">f4", ">f8"])
def test_of_numbers_that_forward_converts(dtype):
    x = (normals((12, 3), seed=1) * 3).astype(dtype)
    _, saved = fastbn.forward(x)
    assert_same_gradients(normals((12, 3)), fastbn.Saved.of(x, saved.stats), saved)


def test_fixed_statistics_are_constants():
    x, dy, *_ = problem((4, 3, 5))
    stats = fastbn.batch_stats(x)
    through, constant = (
        fastbn.backward(dy, fastbn.Saved.of(x, stats, fixed=fixed)).dx for fixed in (False, True)
    )
    scale = 1 / np.sqrt(stats.var() + 1e-5)
    np.testing.assert_allclose(constant, dy * scale[:, None], rtol=1e-12)
    assert np.abs(through - constant).max() > 0.01


def test_of_does_not_read_or_keep_more_than_it_says():
    x, dy, *_ = problem((4, 3, 5))
    stats = fastbn.batch_stats(x)
    saved = fastbn.Saved.of(x, stats)
    assert saved.x is x
    x += 1  # seen by the backward pass, which is why it must not change
    expected = fastbn.Saved.of(x, stats)
    assert_same_gradients(dy, saved, expected)


BAD = {
    "x": ({"x": np.ones((4, 3, 5), complex)}, TypeError, "x"),
    "words for x": ({"x": np.full((4, 3, 5), "one")}, TypeError, "x"),
    "stats of others": ({"stats": fastbn.batch_stats(np.ones((2, 4)))}, ValueError, "stats"),
    "mean of others": ({"stats": (np.ones(4), np.ones(3))}, ValueError, "mean"),
    "no stats": ({"stats": None}, TypeError, "stats"),
    "weight": ({"weight": np.ones(2)}, ValueError, "weight"),
    "bias": ({"bias": np.ones((3, 1))}, ValueError, "bias"),
    "eps": ({"eps": -1.0}, ValueError, "eps"),
    "a word for eps": ({"eps": "small"}, TypeError, "eps"),
    "axis": ({"channel_axis": 3}, ValueError, "channel_axis"),
    "residual": ({"residual": np.ones((4, 3))}, ValueError, "residual"),
    "activation": ({"activation": "tanh"}, ValueError, "activation"),
    "slope": ({"activation": "leaky_relu", "negative_slope": -1.0}, ValueError, "negative_slope"),
}


@pytest.mark.parametrize("what", BAD)
def test_of_refuses(what):
    changes, error, words = BAD[what]
    x = normals((4, 3, 5))
    given = {"x": x, "stats": fastbn.batch_stats(x)} | changes
    with pytest.raises(error, match=words):
        fastbn.Saved.of(given.pop("x"), given.pop("stats"), **given)


# --- with_input -----------------------------------------------------------------------------------


@each_epilogue
@each_fixed
@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_without_its_input_and_with_it_again(layout, dtype, fixed, epilogue):
    shape = (2, 3, 4, 6)
    x, dy, weight, bias = problem(shape, dtype)
    x, options = LAYOUTS[layout](x), options_of(epilogue, shape, dtype)
    given = given_stats(fixed, shape)
    _, saved = fastbn.forward(x, weight, bias, stats=given, **options)
    kept = saved.with_input(None)
    assert kept.x is None
    assert kept.options is None or kept.options.residual is None
    assert saved.x is not None
    copies = LAYOUTS[layout](x.copy()), options.get("residual")
    assert_same_gradients(dy, kept.with_input(*copies), saved)


def test_the_memory_is_the_one_that_is_given():
    x = normals((4, 3, 5))
    saved = fastbn.forward(x)[1]
    again = saved.with_input(other := x.copy())
    assert again.x is other
    assert saved.x is x


@pytest.mark.parametrize("which", ["x", "residual"])
def test_memory_of_another_shape_is_refused(which):
    x = normals((4, 3, 5))
    saved = fastbn.forward(x, residual=x, activation="relu")[1]
    given = {"x": x, "residual": x} | {which: x[:2]}
    with pytest.raises(
        ValueError, match=rf"{which} should have shape \(4, 3, 5\), got \(2, 3, 5\)"
    ):
        saved.with_input(**given)
