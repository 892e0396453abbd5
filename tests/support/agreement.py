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


def compute_eps(dtype):
    """The unit of the arithmetic: float32 for float16 and float32, else float64."""
    narrow = dtype.kind == "f" and dtype.itemsize <= 4
    return np.finfo(np.float32 if narrow else np.float64).eps


def _output_eps(dtype):
    return np.finfo(np.float16).eps if dtype.kind == "f" and dtype.itemsize == 2 else 0.0


class Oracle:
    """Statistics, output and gradients of one problem in float64, each with its bound.

    ``skip`` names channels that are poisoned: nothing is promised about their values.
    """

    def __init__(self, x, weight=None, bias=None, *, eps=1e-5, axis=1, stats=None, skip=()):
        self.x, self.axis, self.eps = np.asarray(x), axis, eps
        self.keep = np.setdiff1d(np.arange(self.x.shape[axis]), skip)
        self.x = np.take(self.x, self.keep, axis).astype(np.float64)
        self.weight = None if weight is None else np.asarray(weight, np.float64)[self.keep]
        self.bias = None if bias is None else np.asarray(bias, np.float64)[self.keep]
        self.given = None if stats is None else tuple(np.asarray(s)[self.keep] for s in stats)
        self.mean, self.var = self.given or reference.statistics(self.x, axis)
        self.unit = compute_eps(np.asarray(x).dtype)
        self.rounding = _output_eps(np.asarray(x).dtype)
        std = np.sqrt(self.var)
        self.invstd = reference.inverse_deviation(self.var, eps)
        self.offset = np.abs(self.mean) * self.invstd if self.unit < 1e-10 else 0 * std

    def close(self, name, got, expected, bound):
        got = np.asarray(got, np.float64)
        assert got.shape == expected.shape, (name, got.shape, expected.shape)
        with np.errstate(invalid="ignore"):
            off = ~((np.abs(got - expected) <= bound) | (got == expected))
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
        mean, var = stats.mean[self.keep], stats.var()[self.keep]
        size = np.abs(self.mean) + np.sqrt(self.var)
        self.close("mean", mean, self.mean, 8 * self.unit * size)
        unit64 = np.finfo(np.float64).eps
        slack = 64 * self.unit * self.var + 64 * (unit64 * np.abs(self.mean)) ** 2
        self.close("var", var, self.var, slack + np.finfo(np.float64).tiny)

    def check_output(self, y):
        expected = by_channel(reference.forward(
            self.x, self.weight, self.bias, eps=self.eps, channel_axis=self.axis,
            stats=(self.mean, self.var)), self.axis)  # fmt: skip
        got = by_channel(np.take(y, self.keep, self.axis), self.axis)
        weight = 1.0 if self.weight is None else np.abs(self.weight)
        bias = 0.0 if self.bias is None else np.abs(self.bias)
        size = self._xhat() * np.expand_dims(weight + 0 * self.var, 1)
        size = size + np.expand_dims(bias + 0 * self.var, 1)
        size = size + np.expand_dims(weight * (1 + self.offset), 1)
        with np.errstate(over="ignore"):
            expected = expected.astype(self._dtype(y)).astype(np.float64)
        bound = UNIT * self.unit * size + self._quantum(y) + self.rounding * np.abs(expected)
        self.close("y", got, expected, bound)

    def check_grads(self, dy, grads):
        dy = np.take(np.asarray(dy), self.keep, self.axis).astype(np.float64)
        dx, dweight, dbias, _ = reference.backward(
            dy, self.x, self.weight, eps=self.eps, channel_axis=self.axis, stats=self.given
        )
        grad, xhat = np.abs(by_channel(dy, self.axis)), self._xhat()
        error = UNIT * self.unit * (1 + self.offset)
        terms = error * (grad * (1 + xhat)).sum(axis=1)
        tiny = np.finfo(np.float32).tiny if self.unit > 1e-10 else np.finfo(np.float64).tiny
        self.close("dbias", grads.dbias[self.keep], dbias, terms + tiny)
        self.close("dweight", grads.dweight[self.keep], dweight, terms + tiny)
        scale = self.invstd * (1.0 if self.weight is None else np.abs(self.weight))
        most = grad.max(axis=1, initial=0)
        mean = 0 if self.given else (grad * xhat).mean(axis=1) if grad.size else 0
        size = (scale * (most + mean))[:, None] * (1 + xhat)
        dx = by_channel(dx, self.axis)
        with np.errstate(over="ignore"):
            dx = dx.astype(self._dtype(grads.dx)).astype(np.float64)
        bound = 2 * error[:, None] * size if np.ndim(error) else 2 * error * size
        bound = bound + self.rounding * np.abs(dx) + self._quantum(grads.dx)
        self.close("dx", by_channel(np.take(grads.dx, self.keep, self.axis), self.axis), dx, bound)

    def _xhat(self):
        return np.abs(by_channel(self.x, self.axis) - self.mean[:, None]) * self.invstd[:, None]

    @staticmethod
    def _dtype(a):
        return np.asarray(a).dtype

    @staticmethod
    def _quantum(a):
        return float(np.finfo(np.asarray(a).dtype).tiny)


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


def assert_statistics(stats, truth, dtype):
    """Bounds in units in the last place of |mean| + std and of the variance; truth is exact."""
    var = stats.var()
    for c, (exact_mean, exact_var) in enumerate(truth):
        unit = ulp(dtype, abs(exact_mean) + Fraction(float(exact_var) ** 0.5))
        assert abs(Fraction(stats.mean[c]) - exact_mean) <= mean_ulps(dtype) * unit
        assert abs(Fraction(var[c]) - exact_var) <= var_ulps(dtype) * ulp(dtype, exact_var)


def assert_outputs(y, expected, dtype, ulps):
    unit = np.spacing(np.maximum(np.abs(expected), 1).astype(dtype)).astype(np.float64)
    assert np.max(np.abs(y.astype(np.float64) - expected) / unit) <= ulps
