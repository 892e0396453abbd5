"""What batch norm is, twice over: a float64 oracle and exact arithmetic.

Nothing here imports fastbn. The oracle is for shapes, axes and dtypes; the exact functions are for
the last digit.
"""

import math
import operator
from fractions import Fraction
from typing import NamedTuple

import numpy as np

# --- the float64 oracle: two passes, any rank, any channel axis ---------------------------------


def by_channel(x, channel_axis):
    """x as a float64 matrix (C, n), one row a channel."""
    x = np.moveaxis(np.asarray(x), channel_axis, 0)
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:]))
    return rows.astype(np.float64, order="C")  # NumPy sums pairwise along contiguous rows only


def _shaped(rows, x, channel_axis):
    """The inverse of `by_channel`, for an array of x's shape."""
    shape = np.moveaxis(np.asarray(x), channel_axis, 0).shape
    return np.moveaxis(rows.reshape(shape), 0, channel_axis)


def _column(vector, default, channels):
    vector = np.full(channels, default) if vector is None else np.asarray(vector)
    return vector.astype(np.float64)[:, None]


def inverse_deviation(var, eps):
    with np.errstate(divide="ignore"):
        return np.where(var + eps == 0, 0.0, 1 / np.sqrt(var + eps))


def shared_weights(weights, x, channel_axis):
    """One float64 weight a sample and position, in the order of a row of `by_channel`."""
    shape = list(np.shape(x))
    shape[channel_axis] = 1
    given = np.asarray(1.0 if weights is None else weights, np.float64)
    if given.ndim == len(shape) - 1:
        given = np.expand_dims(given, channel_axis)
    return np.broadcast_to(given, shape).ravel()


def statistics(x, channel_axis=1, weights=None):
    """Mean and population variance of each channel; both 0 where nothing has a weight."""
    shift, rest, var = _moments(x, channel_axis, weights)
    return (shift + rest)[:, 0], var[:, 0]


def _moments(x, channel_axis, weights):
    """The mean as two columns, whose sum would round it, and the variance."""
    rows, w = by_channel(x, channel_axis), shared_weights(weights, x, channel_axis)
    rows, w = np.compress(w > 0, rows, axis=1), w[w > 0]
    if w.size == 0:
        return np.zeros((3, len(rows), 1))
    shift = rows[:, :1]  # a constant channel then has a variance of exactly 0
    shift = shift + _mean(rows - shift, w)  # the first value may be far from the others
    mean = _mean(rows - shift, w)
    return shift, mean, _mean(np.square(rows - shift - mean), w)


def _mean(rows, w):
    """The weighted mean of each row, a column."""
    return (w * rows).sum(axis=1, keepdims=True) / w.sum()


def _normalized(x, eps, channel_axis, stats, weights):
    """xhat, one row a channel, and invstd, one column."""
    if stats is None:
        shift, rest, var = _moments(x, channel_axis, weights)
    else:
        shift, var = (np.asarray(value)[:, None] for value in stats)
        rest = 0.0
    invstd = inverse_deviation(var, eps)
    return ((by_channel(x, channel_axis) - shift) - rest) * invstd, invstd


def _before_activation(xhat, weight, bias, residual, channel_axis):
    pre = xhat * _column(weight, 1.0, len(xhat)) + _column(bias, 0.0, len(xhat))
    return pre if residual is None else pre + by_channel(residual, channel_axis)


def _activate(pre, activation, negative_slope):
    """PyTorch's `relu` and `leaky_relu`."""
    if activation == "relu":
        return np.maximum(pre, 0.0)
    return np.where(pre > 0, pre, negative_slope * pre) if activation else pre


def _through_activation(grad, pre, activation, negative_slope):
    """The gradient before the activation, at 0 and NaN what PyTorch's is."""
    if activation == "relu":
        return np.where(pre <= 0, 0.0, grad)
    return np.where(pre > 0, grad, negative_slope * grad) if activation else grad


def forward(
    x, weight=None, bias=None, *, eps=1e-5, channel_axis=1, stats=None, weights=None,
    residual=None, activation=None, negative_slope=0.01,
):  # fmt: skip
    """The normalised batch in float64.

    `stats` is (mean, var), by default the batch's own: then `weights` say what a value counts.
    """
    xhat, _ = _normalized(x, eps, channel_axis, stats, weights)
    pre = _before_activation(xhat, weight, bias, residual, channel_axis)
    return _shaped(_activate(pre, activation, negative_slope), x, channel_axis)


class Grads(NamedTuple):
    """Gradients in float64; that of the residual is the one before the activation."""

    dx: np.ndarray
    dweight: np.ndarray
    dbias: np.ndarray
    dresidual: np.ndarray


def backward(
    dy, x, weight=None, bias=None, *, eps=1e-5, channel_axis=1, stats=None, weights=None,
    residual=None, activation=None, negative_slope=0.01,
):  # fmt: skip
    """Gradients of `forward`; statistics that are given are constants.

    What has neither weight nor gradient takes part in nothing, even where it is NaN.
    """
    xhat, invstd = _normalized(x, eps, channel_axis, stats, weights)
    pre = _before_activation(xhat, weight, bias, residual, channel_axis)
    g = _through_activation(by_channel(dy, channel_axis), pre, activation, negative_slope)
    dresidual = _shaped(g, x, channel_axis)
    if stats is None:
        w = shared_weights(weights, x, channel_axis)
        g = g if w.any() else np.zeros_like(g)  # without statistics x has no part in the output
        xhat = np.where((w == 0) & (g == 0), 0.0, xhat)
    dweight, dbias = (g * xhat).sum(axis=1), g.sum(axis=1)
    if stats is None:
        share = np.divide(w, w.sum(), out=np.zeros_like(w), where=w > 0)
        g = g - np.where(w > 0, share * (dbias[:, None] + xhat * dweight[:, None]), 0.0)
    dx = _column(weight, 1.0, len(g)) * invstd * g
    return Grads(_shaped(dx, x, channel_axis), dweight, dbias, dresidual)


def running(old_mean, old_var, x, momentum, *, channel_axis=1, ddof=1, weights=None):
    """Running mean and variance after a batch; momentum is the weight of the new value."""
    mean, var = statistics(x, channel_axis, weights)
    count = shared_weights(weights, x, channel_axis).sum()
    if count == 0:
        return np.asarray(old_mean, np.float64), np.asarray(old_var, np.float64)
    new_var = var * count / (count - ddof) if count >= 2 else var
    return (
        (1 - momentum) * np.asarray(old_mean, np.float64) + momentum * mean,
        (1 - momentum) * np.asarray(old_var, np.float64) + momentum * new_var,
    )


# --- exact arithmetic on one channel: floats are integers times a power of two ------------------


def _integers(values):
    """Python integers and an exponent e with values == integers * 2**e, exactly."""
    mantissa, exponent = np.frexp(np.asarray(values, np.float64).ravel())
    digits = np.ldexp(mantissa, 53).astype(np.int64).tolist()
    exponent = np.where(mantissa == 0, exponent.max(), exponent).tolist()
    low = min(exponent)
    return [d << (e - low) for d, e in zip(digits, exponent, strict=True)], low - 53


def _rsqrt(v, bits=256):
    """1 / sqrt(v) of a Fraction as a Fraction, to about `bits` bits."""
    shift = bits + max(0, v.numerator.bit_length() - v.denominator.bit_length())
    return Fraction(math.isqrt((v.denominator << (2 * shift)) // v.numerator), 1 << shift)


def _combine(*terms):
    """Sums of (Fraction, integers) products, entry by entry: integers and their denominator."""
    denominator = math.lcm(*(factor.denominator for factor, _ in terms))
    whole = [int(factor * denominator) for factor, _ in terms]
    columns = zip(*(integers for _, integers in terms), strict=True)
    return [sum(map(operator.mul, whole, column)) for column in columns], denominator


def _floats(numerators, denominator):
    """Integer ratios, each rounded once."""
    return np.array([a / denominator for a in numerators])


class _Centred:
    """One channel: `values` are W * x - sum(w * x) in integers, times `unit` they are x - mean."""

    def __init__(self, values, weights):
        a, e = _integers(values)
        self.weights = [1] * len(a) if weights is None else _integers(weights)[0]
        self.count = sum(self.weights)  # W, in the weights' own unit, which cancels everywhere
        total = sum(map(operator.mul, self.weights, a))
        self.values = [self.count * i - total for i in a]
        self.unit = Fraction(2) ** e / self.count
        self.mean = self.unit * total
        squares = sum(w * i * i for w, i in zip(self.weights, self.values, strict=True))
        self.var = self.unit**2 * Fraction(squares, self.count)

    def output(self, eps, weight, bias, residual, which=slice(None)):
        """Integers and their denominator: what the activation is given."""
        scale = Fraction(weight) * _rsqrt(self.var + Fraction(eps)) * self.unit
        terms = [(scale, self.values), (Fraction(bias), [1] * len(self.values))]
        if residual is not None:
            z, e = _integers(residual)
            terms.append((Fraction(2) ** e, z))
        return _combine(*((factor, integers[which]) for factor, integers in terms))


def _below(activation, negative_slope):
    """The slope of an activation where it is given 0 or less."""
    return Fraction({None: 1, "relu": 0, "leaky_relu": negative_slope}[activation])


def _sloped(integers, pre, slope):
    """Integers, times `slope` where `pre` is not positive; and what they are to be divided by."""
    up, down = slope.denominator, slope.numerator
    return [i * (up if p > 0 else down) for i, p in zip(integers, pre, strict=True)], up


def exact_statistics(values, weights=None):
    """Mean and population variance as Fractions."""
    channel = _Centred(values, weights)
    return channel.mean, channel.var


def exact_merge(counts, means, m2s):
    """Mean and population variance of parts as Fractions; each part's fields are exact numbers."""
    parts = [[*map(Fraction, part)] for part in zip(counts, means, m2s, strict=True)]
    n = sum(count for count, _, _ in parts)
    mean = sum(count * mean for count, mean, _ in parts) / n
    squares = sum(m2 + count * mean * mean for count, mean, m2 in parts)
    return mean, squares / n - mean * mean


def exact_forward(
    values, eps=0.0, which=slice(None), *, weights=None, weight=1.0, bias=0.0, residual=None,
    activation=None, negative_slope=0.01,
):  # fmt: skip
    """The outputs of one channel, rounded once to float64; `which` picks some."""
    pre, denominator = _Centred(values, weights).output(eps, weight, bias, residual, which)
    y, more = _sloped(pre, pre, _below(activation, negative_slope))
    return _floats(y, denominator * more)


def exact_backward(
    grad, values, weight=1.0, eps=0.0, *, bias=0.0, weights=None, residual=None, activation=None,
    negative_slope=0.01,
):  # fmt: skip
    """(dx, dweight, dbias) of one channel, each number rounded once to float64."""
    channel, (g, f) = _Centred(values, weights), _integers(grad)
    pre, _ = channel.output(eps, weight, bias, residual)
    g, more = _sloped(g, pre, _below(activation, negative_slope))
    unit_g = Fraction(2) ** f / more
    v = channel.var + Fraction(eps)
    invstd = _rsqrt(v)
    grad_total, product = sum(g), sum(map(operator.mul, channel.values, g))
    # dx = weight * invstd * (g - w / W * (sum(g) + (x - mean) / v * sum(g * (x - mean))))
    outer = Fraction(weight) * invstd * unit_g
    dx = _combine(
        (outer, g),
        (-outer * Fraction(grad_total, channel.count), channel.weights),
        (
            -outer * product * channel.unit**2 / (v * channel.count),
            [*map(operator.mul, channel.weights, channel.values)],
        ),
    )
    dweight = product * channel.unit * unit_g * invstd
    return _floats(*dx), float(dweight), float(grad_total * unit_g)


# --- differences ---------------------------------------------------------------------------------


def numeric_gradient(loss, a, h=1e-3):
    """Fourth-order central differences of a scalar function, entry by entry."""
    a, out = a.copy(), np.empty_like(a)
    for index in np.ndindex(a.shape):
        old, values = a[index], []
        for step in (-2, -1, 1, 2):
            a[index] = old + step * h
            values.append(loss(a))
        a[index] = old
        out[index] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    return out
