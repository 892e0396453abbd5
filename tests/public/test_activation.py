"""Residual and activation: what comes behind the normalisation, in the same pass."""

import numpy as np
import options
import pytest
import reference
from agreement import assert_agreement
from data import DTYPES, LAYOUTS, assert_state, channels_last, normals, order, problem, snapshot
from witness import autograd

import fastbn
from fastbn._arrays import layout
from fastbn._kernels import schedule

ODD = [(7, 5, 3, 11), (37, 21), (3, 2, 1003), (5, 33, 7, 7), (1, 6, 13), (301, 3), (2, 1300, 3)]
MEMORY = {"contiguous": np.ascontiguousarray, "channels_last": channels_last}
# How a pass goes through memory: whole arrays, or so many units of channels at a time.
WALKS = {"whole": 0, "slabs of one": 1, "slabs of three": 3, "slabs of a share": 1 << 30}


@pytest.fixture(params=WALKS)
def walk(request, monkeypatch):
    """Each way through memory, in turn, for arrays of any size."""
    units = WALKS[request.param]
    monkeypatch.setattr(schedule, "LARGE", 1)

    def choose(plan, inputs, threads, both):
        share = -(-plan.cut["units"] // threads)
        slab = min(units, share) if both and plan.in_slabs else 0
        return schedule.Walk(slab, False)

    with layout.force_walks(choose):
        yield


def near(got, expected, tolerance=1e-9):
    size = max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * size)


def assert_like_autograd(x, dy, weight, bias, **settings):
    y, saved = fastbn.forward(x, weight, bias, **settings)
    grads = fastbn.backward(dy, saved)
    expected, truth = autograd(dy, x, weight, bias, **settings)
    near(y, expected)
    for name in ("dx", "dweight", "dbias"):
        near(getattr(grads, name), getattr(truth, name))
    if settings["residual"] is None:
        assert grads.dresidual is None
    else:
        near(grads.dresidual, truth.dresidual)


@options.over_options
@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("shape", ODD, ids=str)
@pytest.mark.usefixtures("walk")
def test_every_combination_is_what_autograd_finds(shape, memory, weights, activation, residual):
    x, dy, weight, bias = problem(shape)
    settings = options.settings(shape, weights, activation, residual)
    if residual:
        settings["residual"] = MEMORY[memory](settings["residual"])
    assert_like_autograd(MEMORY[memory](x), MEMORY[memory](dy), weight, bias, **settings)


@pytest.mark.parametrize("activation", options.ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("shape", ODD, ids=str)
def test_fixed_statistics(shape, memory, activation, residual):
    x, dy, weight, bias = problem(shape)
    settings = options.settings(shape, None, activation, residual)
    del settings["weights"]
    x, dy, stats = MEMORY[memory](x), MEMORY[memory](dy), (0.1 * weight, weight**2 + 0.5)
    assert_like_autograd(x, dy, weight, bias, stats=stats, **settings)
    y, saved = fastbn.forward(x, weight, bias, stats=stats, **settings)
    z = fastbn.normalize(x, saved.stats, weight, bias, **settings)
    np.testing.assert_array_equal(z, y)
    np.testing.assert_array_equal(fastbn.normalize(x, stats, weight, bias, **settings), y)


@options.over_options
@pytest.mark.parametrize("name", LAYOUTS)
def test_any_memory_in_float32(name, weights, activation, residual):
    shape, lie = (6, 5, 4, 7), LAYOUTS[name]
    settings = options.settings(shape, weights, activation, residual, dtype=np.float32)
    assert_agreement(*problem(shape, np.float32), lie=lie, **settings)


# --- kinks and NaN --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("shape", [(30, 4), (3, 4, 300), (9, 4, 7)])
def test_the_gradient_at_zero_is_pytorchs(shape, dtype):
    x, dy, _, _ = problem(shape, dtype)
    zero = np.zeros(4, dtype)
    for settings, slope in (
        ({"activation": "relu"}, 0),
        ({"activation": "leaky_relu", "negative_slope": 0.25}, 0.25),
    ):
        y, saved = fastbn.forward(x, zero, zero, residual=np.zeros_like(x), **settings)
        grads = fastbn.backward(dy, saved)
        np.testing.assert_array_equal(y, 0)
        np.testing.assert_array_equal(grads.dresidual, dtype(slope) * dy)
        expected = slope * dy.astype(np.float64).sum(axis=(0, *range(2, x.ndim)))
        np.testing.assert_allclose(grads.dbias, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_values_of_the_residual_that_are_no_numbers(activation, dtype):
    x, dy, weight, bias = problem((9, 4, 7), dtype)
    z = np.zeros_like(x)
    z[1, 0, 2], z[2, 1, 3], z[3, 2, 4] = np.nan, np.inf, -np.inf
    settings = {"activation": activation, "negative_slope": 0.25}
    y, saved = fastbn.forward(x, weight, bias, residual=z, **settings)
    grads = fastbn.backward(dy, saved)
    below = 0 if activation == "relu" else -np.inf
    np.testing.assert_array_equal((y[1, 0, 2], y[2, 1, 3], y[3, 2, 4]), (np.nan, np.inf, below))
    assert np.isfinite(np.delete(y.ravel(), np.flatnonzero(~np.isfinite(z)))).all()
    slopes = (1, 1, 0) if activation == "relu" else (0.25, 1, 0.25)
    found = grads.dresidual[1, 0, 2], grads.dresidual[2, 1, 3], grads.dresidual[3, 2, 4]
    given = dy[1, 0, 2], dy[2, 1, 3], dy[3, 2, 4]
    np.testing.assert_array_equal(found, np.multiply(slopes, given).astype(dtype))
    assert all(np.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shape", [(64, 20, 7, 7), (40, 3, 500), (1003, 65), (2, 3, 40_001)])
def test_both_passes_agree_on_what_is_positive(shape, residual, fixed, dtype):
    """To the bit, also where rounding decides: gradients flow where the output is not 0."""
    x, dy, weight, bias = problem(shape, dtype)
    x = np.round(64 * x) / 64  # many outputs are next to 0
    z = np.round(64 * normals(shape, dtype, seed=9)) / 64 if residual else np.zeros_like(x)
    stats = (np.zeros(shape[1]), np.ones(shape[1])) if fixed else None
    weight, bias = np.ones_like(weight), np.round(4 * bias) / 4
    settings = {"residual": z, "activation": "relu", "stats": stats, "eps": 0.0}
    y, saved = fastbn.forward(x, weight, bias, **settings)
    grads = fastbn.backward(dy, saved)
    np.testing.assert_array_equal(grads.dresidual, np.where(y > 0, dy, dtype(0)))
    # and the sums are those of the same positions
    plain = fastbn.forward(x, weight, bias, stats=stats, eps=0.0)[1]
    same = fastbn.backward(np.where(y > 0, dy, dtype(0)), plain)
    for one, two in zip(grads[:3], same[:3], strict=True):
        near(one, two, 64 * np.finfo(dtype).eps)


@pytest.mark.parametrize("slope", [0, 0.5, 1, 3.0, np.float32(0.25)])
def test_slopes(slope):
    x, dy, weight, bias = problem((9, 4, 7))
    settings = {"activation": "leaky_relu", "negative_slope": slope}
    y, saved = fastbn.forward(x, weight, bias, **settings)
    grads = fastbn.backward(dy, saved)
    near(y, reference.forward(x, weight, bias, **settings), 1e-13)
    expected = reference.backward(dy, x, weight, bias, **settings)
    for one, two in zip(grads[:3], expected[:3], strict=True):
        near(one, two, 1e-13)
    other = {0: {"activation": "relu"}, 1: {}}.get(slope)
    if other is not None:
        z, kept = fastbn.forward(x, weight, bias, **other)
        np.testing.assert_array_equal(z, y)
        np.testing.assert_array_equal(fastbn.backward(dy, kept).dx, grads.dx)


def test_the_slope_is_that_of_leaky_relu_alone():
    x, _, weight, bias = problem((9, 4, 7))
    for activation in (None, "relu"):
        y, _ = fastbn.forward(x, weight, bias, activation=activation, negative_slope=0.5)
        np.testing.assert_array_equal(y, fastbn.forward(x, weight, bias, activation=activation)[0])
    default = fastbn.forward(x, weight, bias, activation="leaky_relu")[0]
    near(default, reference.forward(x, weight, bias, activation="leaky_relu"), 1e-13)


# --- the residual's memory, and where results go --------------------------------------------------


@pytest.mark.parametrize("activation", options.ACTIVATIONS)
@pytest.mark.parametrize("kind", ["f2", "bfloat16", "f4", "f8", ">f4", ">f8"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_residual_of_any_memory_and_dtype(name, kind, activation):
    x, dy, weight, bias = problem((6, 5, 4, 7))
    z = normals(x.shape, seed=9).astype(np.dtype(kind))
    given = LAYOUTS[name](z)
    before = given.tobytes()
    settings = {"residual": z.astype(np.float64), **options.ACTIVATIONS[activation]}
    for lie in MEMORY.values():
        expected, plain = fastbn.forward(lie(x), weight, bias, **settings)
        truth = fastbn.backward(lie(dy), plain)
        y, saved = fastbn.forward(lie(x), weight, bias, **settings | {"residual": given})
        grads = fastbn.backward(lie(dy), saved)
        np.testing.assert_array_equal(y, expected)
        assert order(y) == order(lie(x))
        for one, two in zip(grads, truth, strict=True):
            np.testing.assert_array_equal(one, two)
    assert given.tobytes() == before


def test_a_residual_that_is_x_itself():
    x, dy, weight, bias = problem((6, 5, 4, 7))
    settings = {"residual": x, "activation": "relu"}
    y, saved = fastbn.forward(x, weight, bias, **settings)
    near(y, reference.forward(x, weight, bias, **settings), 1e-13)
    expected = reference.backward(dy, x, weight, bias, **settings)
    for one, two in zip(fastbn.backward(dy, saved), expected, strict=True):
        near(one, two, 1e-13)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("activation", options.ACTIVATIONS)
@pytest.mark.parametrize("lie", MEMORY.values(), ids=MEMORY)
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (70, 40, 6, 6), (300, 7)])
def test_in_place(shape, lie, activation, dtype):
    x, dy, weight, bias = problem(shape, dtype)
    x, dy, z = lie(x), lie(dy), lie(normals(shape, dtype, seed=9))
    settings = {"residual": z, **options.ACTIVATIONS[activation]}
    y, saved = fastbn.forward(x, weight, bias, **settings)
    grads = fastbn.backward(dy, saved)
    for out in (np.empty_like(x), LAYOUTS["strided"](np.empty_like(x))):
        assert fastbn.forward(x, weight, bias, **settings, out=out)[0] is out
        np.testing.assert_array_equal(out, y)
    mine = dy.copy(order="K")
    written = fastbn.backward(mine, saved, out=mine)
    assert written.dx is mine
    for one, two in zip(written, grads, strict=True):
        np.testing.assert_array_equal(one, two)
    for given in (dy, mine, z, x):
        assert not np.shares_memory(written.dresidual, given)
        assert not np.shares_memory(grads.dresidual, given)
    again = x.copy(order="K")
    assert fastbn.normalize(again, saved.stats, weight, bias, **settings, out=again) is again
    np.testing.assert_array_equal(again, fastbn.normalize(x, saved.stats, weight, bias, **settings))
    with pytest.raises(ValueError, match="out should not overlap residual"):
        fastbn.forward(x, weight, bias, **settings, out=z)
    with pytest.raises(ValueError, match="out should not overlap x"):
        fastbn.forward(x, weight, bias, **settings, out=x)


def test_a_gradient_of_a_residual_is_the_callers_own():
    x, dy, weight, bias = problem((6, 5, 7))
    before = dy.copy()
    _, saved = fastbn.forward(x, weight, bias, residual=np.ones_like(x))
    grads = fastbn.backward(dy, saved)
    np.testing.assert_array_equal(grads.dresidual, dy)
    grads.dresidual[...] = 7
    np.testing.assert_array_equal(dy, before)
    assert fastbn.backward(dy, saved).dresidual is not grads.dresidual


@pytest.mark.parametrize("activation", options.ACTIVATIONS)
@pytest.mark.parametrize("needs", [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)])
def test_what_is_needed(needs, activation):
    x, dy, weight, bias = problem((6, 5, 7))
    settings = {"residual": normals(x.shape, seed=9), **options.ACTIVATIONS[activation]}
    _, saved = fastbn.forward(x, weight, bias, **settings)
    everything = fastbn.backward(dy, saved)
    some = fastbn.backward(dy, saved, needs=tuple(map(bool, needs)))
    for wanted, one, two in zip((*needs, True), some, everything, strict=True):
        if wanted:
            np.testing.assert_array_equal(one, two)
        else:
            assert one is None


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (2, 3, 0), (4, 0), (2, 0, 3)])
def test_empty_batches(shape):
    x = np.empty(shape, np.float32)
    shared = np.ones(np.delete(shape, 1))
    settings = {"residual": x, "activation": "relu", "weights": shared}
    y, saved = fastbn.forward(x, **settings)
    grads = fastbn.backward(x, saved)
    assert y.shape == grads.dx.shape == grads.dresidual.shape == shape
    assert y.dtype == grads.dx.dtype == grads.dresidual.dtype == np.float32
    np.testing.assert_array_equal(grads.dweight, np.zeros(shape[1]))
    assert saved.stats.count == np.prod(np.delete(shape, 1))


# --- layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [fastbn.BatchNorm, fastbn.BatchNorm1d])
@pytest.mark.parametrize("activation", options.ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_layer_trains_and_evaluates(weighted, residual, activation, layer):
    x, dy, weight, bias = problem((6, 5, 7))
    bn = layer(5, dtype=np.float64, **options.ACTIVATIONS[activation])
    bn.weight[:], bn.bias[:] = weight, bias
    given = {"residual": normals(x.shape, seed=9) if residual else None}
    if weighted:
        given["weights"] = options.WEIGHTS["real"]((6, 7))
    settings = options.ACTIVATIONS[activation] | given
    near(bn(x, **given), reference.forward(x, weight, bias, **settings), 1e-13)
    truth = reference.backward(dy, x, weight, bias, **settings)
    near(bn.backward(dy), truth.dx, 1e-12)
    near(bn.weight_grad, truth.dweight, 1e-12)
    near(bn.bias_grad, truth.dbias, 1e-12)
    mean, var = reference.running(np.zeros(5), np.ones(5), x, 0.1, weights=given.get("weights"))
    near(bn.running_mean, mean, 1e-13)
    near(bn.running_var, var, 1e-13)
    before = snapshot(bn)
    bn(x, **given, update=False)
    assert_state(bn, before)
    bn.eval()
    stats = bn.running_mean.copy(), bn.running_var.copy()
    near(bn(x, **given), reference.forward(x, weight, bias, stats=stats, **settings), 1e-13)
    bn.zero_grad()
    near(
        bn.backward(dy), reference.backward(dy, x, weight, bias, stats=stats, **settings).dx, 1e-12
    )
    assert_state(bn, before)


def test_a_layer_keeps_the_gradient_of_no_residual():
    x, dy, _, _ = problem((6, 5, 7))
    bn = fastbn.BatchNorm(5, activation="relu")
    bn(x, residual=x)
    bn(x)
    near(bn.backward(dy), reference.backward(dy, x, activation="relu").dx, 1e-12)
