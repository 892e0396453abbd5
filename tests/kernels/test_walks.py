"""Every walk through memory against the float64 oracle: all widths, rows, ends and alignments."""

import numpy as np
import pytest
import reference
from data import DTYPES, HALVES, problem, unaligned
from shapes import STORED

import fastbn
from fastbn._kernels import schedule

# What each walk sums, for a given number of values in 256 bytes.
WALKS = {
    "narrow": lambda n: [(1003, n), (4001, n // 4), (20_011, 1), (301, n // 8, 4), (33, 2, 2)],
    "middle": lambda n: [(1003, 2 * n), (77, 2 * n), (203, n // 4, 8), (8, 2 * n)],
    "wide": lambda n: [(1003, 3 * n), (517, 2 * n + 1), (301, 67), (1001, 3), (90, 50, 7), (9, 1)],
    "tiles": lambda n: [(41, 4100), (33, 8199), (19, 1400, 3), (3, 5000)],
}
WIDTHS = [*range(1, 71), 100, *range(127, 131), 257, 1000, 2047, 2049, *range(4095, 4098), 8193]


def walk(shape, dtype):
    """The name of the walk that sums an array's columns."""
    itemsize = np.dtype(dtype).itemsize
    cut = schedule.plan(shape, 1, itemsize).cut
    assert not cut["reduce_by_rows"], shape
    if cut["tile_room"] < cut["width"]:
        return "tiles"
    names = {schedule.NARROW: "narrow", 2 * schedule.NARROW: "middle"}
    return names.get(cut["width"] * itemsize, "wide")


def assert_near(mine, truth, dtype, shape, ulps=16):
    """Within some units in the last place of the largest value of a channel, or of 1."""
    axes = tuple(i for i in range(np.ndim(truth)) if i != 1) if np.ndim(truth) > 1 else ()
    unit = np.finfo(dtype).eps * np.maximum(1, np.abs(truth).max(axis=axes, keepdims=True))
    difference = np.abs(mine - truth) / unit
    assert not np.isnan(difference).any(), shape
    assert difference.max() <= ulps, (shape, difference.max())


def check(x, dy, weight, bias, eps=1e-5):
    """Statistics, outputs and gradients, against the oracle."""
    dtype, shape = x.dtype, x.shape
    # the oracle's sums are more exact along contiguous channels
    values = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, 0)), 0, 1)
    stats = reference.statistics(values)
    mine = fastbn.batch_stats(x)
    deviation = np.where(stats[1] > 0, np.sqrt(stats[1]), 1)
    assert_near(mine.mean / deviation, stats[0] / deviation, dtype, shape)
    assert_near(mine.var() / deviation**2, stats[1] / deviation**2, dtype, shape)
    if x.size == shape[1]:  # a single value a channel
        y, saved = fastbn.forward(x, weight, bias, eps=eps, stats=mine)
        fixed = stats
    else:
        y, saved = fastbn.forward(x, weight, bias, eps=eps)
        np.testing.assert_array_equal(saved.stats.mean, mine.mean)
        fixed = None
    assert_near(y, reference.forward(values, weight, bias, eps=eps, stats=fixed), dtype, shape)
    truth = reference.backward(dy, values, weight, eps=eps, stats=fixed)
    scale = np.maximum(1, deviation**-1.0)  # of dx: that of weight / deviation
    grads = fastbn.backward(dy, saved)
    sides = [1, -1] + [1] * (x.ndim - 2)
    size = np.abs(dy).max() * scale.reshape(sides)
    assert_near(grads.dx / size, truth[0] / size, dtype, shape, 64)
    total = np.abs(dy.astype(np.float64)).max() * x.size / shape[1]
    for sums, expected in zip(grads[1:3], truth[1:3], strict=True):
        assert_near(sums / total, expected / total, dtype, shape)


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WALKS)
def test_walk(name, dtype):
    for shape in WALKS[name](schedule.NARROW // np.dtype(dtype).itemsize):
        assert walk(shape, dtype) == name, shape
        check(*problem(shape, dtype, offset=3.0))


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", range(1, 21))
def test_every_width(rows, dtype):
    for width in WIDTHS:
        check(*problem((rows, width), dtype, seed=rows))


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 7, 8, 16, 31, 48, 63, 64])
def test_every_rest_behind_whole_rows(channels, dtype):
    """Narrow samples are summed side by side: the last row of them is a shorter one."""
    side = 256 // channels
    for samples in {*range(7 * side, 9 * side, max(1, side // 9)), 17 * side + 1}:
        check(*problem((samples, channels), dtype, seed=samples))


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 33])
def test_every_short_run(channels, dtype):
    for run in range(2, 71):
        for samples in (2, 11):
            check(*problem((samples, channels, run), dtype, seed=run))


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_rest_of_long_runs(dtype):
    """Runs are summed several at once: those of samples, or the parts of a long one."""
    for run in [*range(1020, 1070), 5000, 16_385]:
        for samples in (1, 5, 9):
            check(*problem((samples, 2, run), dtype, seed=run))


EXACT = [(1003, 64), (503, 128), (301, 65), (700, 3), (40, 5, 7), (9, 2050), (12, 3, 99)]


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e-36])
@pytest.mark.parametrize("shape", [*EXACT, (4, 3, 1000)])
def test_values_that_float32_cannot_square(shape, scale):
    x, dy, weight, bias = problem(shape, np.float32)
    x *= np.float32(scale)
    # gradients are as large as dy / x; nothing beyond float32 is wanted here
    check(x, dy * np.float32(min(1, scale * 1e6)), weight, bias, eps=0.0)


@pytest.mark.parametrize("shape", [*EXACT, (4, 3, 1000)])
def test_denormal_values(shape):
    x, _, weight, bias = problem(shape, np.float32)
    x *= np.float32(1e-42)
    stats, (mean, var) = fastbn.batch_stats(x), reference.statistics(x)
    np.testing.assert_allclose(stats.mean, mean, rtol=1e-12, atol=1e-55)
    np.testing.assert_allclose(stats.var(), var, rtol=1e-12)
    y, _ = fastbn.forward(x, weight, bias)  # eps is far larger: the bias
    sides = [1, -1] + [1] * (x.ndim - 2)
    np.testing.assert_array_equal(y, np.broadcast_to(bias.reshape(sides), shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5003, 64), (5003, 32), (5003, 128), (5003, 71), (5003, 3)])
def test_shifts_far_from_the_mean(shape, dtype):
    """Of most values that estimate the mean: the exact walk takes the column again."""
    x, dy, weight, bias = problem(shape, dtype)
    x[[shape[0] * k // 16 for k in range(1, 16)], ::2] = 50.0
    check(x, dy, weight, bias)


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("name", STORED)
def test_an_output_of_any_alignment_has_the_same_bits(name, dtype):
    x, dy, weight, bias = problem(STORED[name], dtype)
    y, saved = fastbn.forward(x, weight, bias)
    fixed = fastbn.forward(x, weight, stats=saved.stats)[1]
    dx, fixed_dx = fastbn.backward(dy, saved).dx, fastbn.backward(dy, fixed).dx
    for offset in range(16):
        raw, out = unaligned(x, offset)
        for expected, call in (
            (y, lambda out: fastbn.forward(x, weight, bias, out=out)[0]),
            (y, lambda out: fastbn.normalize(x, saved.stats, weight, bias, out=out)),
            (dx, lambda out: fastbn.backward(dy, saved, out=out).dx),
            (fixed_dx, lambda out: fastbn.backward(dy, fixed, out=out).dx),
        ):
            out[...] = 7.0
            assert call(out) is out
            np.testing.assert_array_equal(out, expected)
            out[...] = 7.0
            np.testing.assert_array_equal(raw, 7.0)  # nothing before or behind it


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("name", STORED)
def test_an_input_of_any_alignment_gives_the_same_bits(name, dtype):
    x, dy, weight, bias = problem(STORED[name], dtype)
    y, saved = fastbn.forward(x, weight, bias)
    dx = fastbn.backward(dy, saved).dx
    for offset in (1, 5, 15):
        there, gradient = unaligned(x, offset)[1], unaligned(dy, 2 * offset)[1]
        there[...], gradient[...] = x, dy
        z, saved = fastbn.forward(there, weight, bias)
        np.testing.assert_array_equal(z, y)
        np.testing.assert_array_equal(fastbn.backward(gradient, saved).dx, dx)


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("name", STORED)
def test_in_place_gives_the_same_bits(name, dtype):
    x, dy, weight, bias = problem(STORED[name], dtype)
    y, saved = fastbn.forward(x, weight, bias)
    dx = fastbn.backward(dy, saved).dx
    z, dz = x.copy(), dy.copy()
    np.testing.assert_array_equal(fastbn.normalize(z, saved.stats, weight, bias, out=z), y)
    np.testing.assert_array_equal(fastbn.backward(dz, saved, out=dz).dx, dx)
