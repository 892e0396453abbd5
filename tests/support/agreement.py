"""How far a result may be from the float64 oracle, and from exact fractions.

The bounds are units in the last place of the arithmetic, times the size of what was added up. A
float32 statistic is rounded from float64, so that an offset costs digits in float64 data only,
behind which there is no wider type.
"""

from fractions import Fraction

import numpy as np
import reference
from reference import by_channel

import fastbn

UNIT = 16  # roundings that any output may have gone through


# --- of any problem, channel by channel ----------------------------------------------------------


SMALLEST = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126}  # normal numbers
HALVES = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # half their units in the last place of 1


def compute_eps(dtype):
    """The unit of the arithmetic: float32 for all that is no wider, else float64."""
    return np.finfo(np.float32 if dtype.name in SMALLEST else np.float64).eps


def _smallest(dtype):
    return SMALLEST.get(dtype.name, float(np.finfo(np.float64).tiny))


class Oracle:
    """Statistics, output and gradients of one problem in float64, each with its bound.

    ``skip`` names channels that are poisoned: nothing is promised about their values. ``options``
    are weights, residual, activation and negative_slope.
    """

    def __init__(
        self, x, weight=None, bias=None, *, eps=1e-5, axis=1, stats=None, skip=(), **options
    ):
        self.shape, self.axis, self.eps = np.shape(x), axis, eps
        self.keep = np.setdiff1d(np.arange(self.shape[axis]), skip)
        self.unit = compute_eps(np.asarray(x).dtype)
        self.x = self._kept(x)
        self.weight = None if weight is None else np.asarray(weight, np.float64)[self.keep]
        self.bias = None if bias is None else np.asarray(bias, np.float64)[self.keep]
        self.given = None if stats is None else tuple(np.asarray(s)[self.keep] for s in stats)
        weights = None if self.given else options.get("weights")
        self.mean, self.var = self.given or reference.statistics(self.x, axis, weights)
        self.weights = reference.shared_weights(weights, self.x, axis)
        self.invstd = reference.inverse_deviation(self.var, eps)
        self.offset = np.abs(self.mean) * self.invstd if self.unit < 1e-10 else 0 * self.mean
        self.options = {"eps": eps, "channel_axis": axis, "stats": self.given, **options}
        residual = options.get("residual")
        self.options["residual"] = None if residual is None else self._kept(residual)
        self.slope = max(1.0, options.get("negative_slope", 0.0))

    def close(self, name, got, expected, bound):
        got = np.asarray(got, np.float64)
        assert got.shape == expected.shape, (name, got.shape, expected.shape)
        with np.errstate(invalid="ignore"):
            off = ~((np.abs(got - expected) <= bound) | (got == expected))
        off &= ~(np.isnan(got) & np.isnan(expected))
        if off.any():
            worst = np.flatnonzero(off.ravel())[:3]
            details = [
                (int(i), got.ravel()[i], expected.ravel()[i], np.ravel(bound + 0 * expected)[i])
                for i in worst
            ]
            raise AssertionError(
                f"{name}: {off.sum()} of {off.size} off; (index, got, expected, bound) {details}"
            )

    def check_stats(self, stats):
        """Mean within a few units of its own size and the deviation, variance within some."""
        count = self.weights.sum()
        assert abs(stats.count - count) <= 1e-12 * count, (stats.count, count)
        mean, m2 = stats.mean[self.keep], stats.m2[self.keep]
        size = np.abs(self.mean) + np.sqrt(self.var)
        self.close("mean", mean, self.mean, 8 * self.unit * size)
        slack = 64 * self.unit * self.var + 64 * (np.finfo(np.float64).eps * np.abs(self.mean)) ** 2
        slack += np.finfo(np.float64).tiny
        self.close("var", m2, count * self.var, count * slack)

    def _output(self, **changes):
        """The output, one row a channel, and how far off arithmetic may be, rounding aside."""
        y = reference.forward(self.x, self.weight, self.bias, **self.options | changes)
        weight = 1.0 if self.weight is None else np.abs(self.weight)
        bias = 0.0 if self.bias is None else np.abs(self.bias)
        size = self._xhat() * np.expand_dims(weight + 0 * self.var, 1)
        size = size + np.expand_dims(bias + 0 * self.var, 1)
        size = size + np.expand_dims(weight * (1 + self.offset), 1)
        if self.options["residual"] is not None:
            size = size + np.abs(by_channel(self.options["residual"], self.axis))
        return by_channel(y, self.axis), UNIT * self.unit * size * self.slope

    def check_output(self, y):
        self._close_rounded("y", y, *self._output())

    def sure(self, dy):
        """dy, but 0 where rounding decides on which side of an activation's kink a value lies."""
        if not self.options.get("activation"):
            return dy
        dy, (pre, bound) = dy.copy(), self._output(activation=None)
        doubtful = np.abs(pre) <= bound + _smallest(np.dtype(np.float32))
        rows = np.moveaxis(dy, self.axis, 0)
        rows[self.keep] = np.where(doubtful.reshape(rows[self.keep].shape), 0, rows[self.keep])
        return dy

    def check_grads(self, dy, grads):
        dx, dweight, dbias, dresidual = reference.backward(
            self._kept(dy), self.x, self.weight, self.bias, **self.options
        )
        if self.options["residual"] is None:
            assert grads.dresidual is None
        else:
            expected = by_channel(dresidual, self.axis)
            bound = 2 * self.unit * np.abs(expected)  # dy, the slope and their product are rounded
            self._close_rounded("dresidual", grads.dresidual, expected, bound)
        grad, xhat = np.abs(by_channel(dresidual, self.axis)), self._xhat()
        error = UNIT * self.unit * (1 + self.offset)
        terms = error * (grad * (1 + xhat)).sum(axis=1)
        tiny = np.finfo(np.float32).tiny if self.unit > 1e-10 else np.finfo(np.float64).tiny
        self.close("dbias", grads.dbias[self.keep], dbias, terms + tiny)
        self.close("dweight", grads.dweight[self.keep], dweight, terms + tiny)
        scale = self.invstd * (1.0 if self.weight is None else np.abs(self.weight))
        most = grad.max(axis=1, initial=0)[:, None]
        mean = 0 if self.given else (grad * xhat).mean(axis=1)[:, None] if grad.size else 0
        share = self.weights / self.weights.mean() if self.weights.any() else self.weights
        size = scale[:, None] * (most * np.maximum(share, 1) + mean * share) * (1 + xhat)
        bound = 2 * error[:, None] * size
        self._close_rounded("dx", grads.dx, by_channel(dx, self.axis), bound)

    def _close_rounded(self, name, got, expected, bound):
        """Rows of an array of x's shape, each number rounded once to the array's dtype."""
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = expected.astype(got.dtype).astype(np.float64)
            expected = np.where(np.isinf(rounded), rounded, expected)
            bound = bound + HALVES.get(got.dtype.name, 0.0) * np.abs(expected)
        bound = bound + _smallest(got.dtype)
        self.close(name, by_channel(self._kept(got), self.axis), expected, bound)

    def _kept(self, a):
        """The channels that count, of an array of x's shape."""
        return np.take(np.asarray(a), self.keep, self.axis).astype(np.float64)

    def _xhat(self):
        """Sizes; what is not finite counts for nothing, and so is not to be read."""
        xhat = np.abs(by_channel(self.x, self.axis) - self.mean[:, None]) * self.invstd[:, None]
        return np.where(np.isfinite(xhat), xhat, 0.0)


def assert_agreement(x, dy, weight, bias, *, lie=None, eps=1e-5, channel_axis=1, **options):
    """Both passes near the oracle; ``lie`` stores x and dy in memory.

    Returns the output, the gradients and the `Oracle.sure` dy that they are of.
    """
    oracle = Oracle(x, weight, bias, eps=eps, axis=channel_axis, **options)
    dy = oracle.sure(dy)
    if lie:
        x, dy = lie(x), lie(dy)
    settings = {"eps": eps, "channel_axis": channel_axis, **options}
    y, saved = fastbn.forward(x, weight, bias, **settings)
    grads = fastbn.backward(dy, saved)
    oracle.check_stats(saved.stats)
    oracle.check_output(y)
    oracle.check_grads(dy, grads)
    return y, grads, dy


# --- of a problem without poison, one bound for all channels -------------------------------------


def assert_like_oracle(x, dy, weight, bias, channel_axis=1):
    """Forward and backward pass of a case from `data` near the oracle, of their own size."""
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


def assert_relative(got, expected, bound=1e-8):
    """Within a fraction of the largest value, the fourth-order error of finite differences."""
    assert np.max(np.abs(got - expected)) <= bound * np.max(np.abs(expected))


# --- to the last digit: of exact statistics and outputs -------------------------------------------


def ulp(dtype, value):
    return float(np.spacing(dtype(abs(float(value)))))


def mean_ulps(dtype):
    return 1 if dtype == np.float32 else 4


def var_ulps(dtype):
    return 2 if dtype == np.float32 else 64


def output_ulps(dtype, offset):
    return 4 if dtype == np.float32 else 16 + 2 * (1 + offset)


def assert_statistics(stats, truth, dtype, times=1):
    """Bounds in units in the last place of |mean| + std and of the variance; truth is exact.

    Each of them so many ``times``: with weights, every term is rounded once more.
    """
    var = stats.var()
    for c, (exact_mean, exact_var) in enumerate(truth):
        unit = ulp(dtype, abs(exact_mean) + Fraction(float(exact_var) ** 0.5))
        assert abs(Fraction(stats.mean[c]) - exact_mean) <= times * mean_ulps(dtype) * unit
        bound = times * var_ulps(dtype) * ulp(dtype, exact_var)
        assert abs(Fraction(var[c]) - exact_var) <= bound


def assert_outputs(y, expected, dtype, ulps):
    unit = np.spacing(np.maximum(np.abs(expected), 1).astype(dtype)).astype(np.float64)
    assert np.max(np.abs(y.astype(np.float64) - expected) / unit) <= ulps
