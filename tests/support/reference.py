"""What batch norm is, twice over: a float64 oracle and exact arithmetic.

Nothing here imports fastbn. The oracle is for shapes, axes and dtypes; the exact functions are for
the last digit.
"""

import math
from fractions import Fraction

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


def statistics(x, channel_axis=1):
    """Mean and population variance of each channel."""
    rows = by_channel(x, channel_axis)
    first = rows[:, :1]  # a constant channel then has a variance of exactly 0
    rows = rows - first
    mean = rows.mean(axis=1)
    return first[:, 0] + mean, np.square(rows - mean[:, None]).mean(axis=1)


def forward(x, weight=None, bias=None, *, eps=1e-5, channel_axis=1, stats=None):
    """The normalised batch in float64; `stats` is (mean, var), by default the batch's own."""
    rows = by_channel(x, channel_axis)
    mean, var = stats or statistics(x, channel_axis)
    y = (rows - np.asarray(mean)[:, None]) * inverse_deviation(np.asarray(var), eps)[:, None]
    y = y * _column(weight, 1.0, len(rows)) + _column(bias, 0.0, len(rows))
    return _shaped(y, x, channel_axis)


def backward(dy, x, weight=None, *, eps=1e-5, channel_axis=1, stats=None):
    """(dx, dweight, dbias) in float64; statistics that are given are constants."""
    rows, grad = by_channel(x, channel_axis), by_channel(dy, channel_axis)
    mean, var = stats or statistics(x, channel_axis)
    invstd = inverse_deviation(np.asarray(var), eps)[:, None]
    xhat = (rows - np.asarray(mean)[:, None]) * invstd
    dweight, dbias = (grad * xhat).sum(axis=1), grad.sum(axis=1)
    inner = grad
    if stats is None:
        inner = grad - grad.mean(axis=1)[:, None] - xhat * (grad * xhat).mean(axis=1)[:, None]
    dx = _column(weight, 1.0, len(rows)) * invstd * inner
    return _shaped(dx, x, channel_axis), dweight, dbias


def running(old_mean, old_var, x, momentum, *, channel_axis=1, ddof=1):
    """Running mean and variance after a batch; momentum is the weight of the new value."""
    mean, var = statistics(x, channel_axis)
    n = np.size(x) // len(mean)
    new_var = var * n / (n - ddof)
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


def _floats(numerators, denominator):
    """Integer ratios, each rounded once."""
    return np.array([a / denominator for a in numerators])


def exact_statistics(values):
    """Mean and population variance as Fractions."""
    a, e = _integers(values)
    n, total = len(a), sum(a)
    squares = sum(i * i for i in a)
    unit = Fraction(2) ** e
    return unit * Fraction(total, n), unit**2 * Fraction(n * squares - total * total, n * n)


def exact_forward(values, eps=0.0, which=slice(None)):
    """The normalised values (weight 1, bias 0), rounded once to float64; `which` picks some."""
    a, e = _integers(values)
    n, total = len(a), sum(a)
    scale = _rsqrt(exact_statistics(values)[1] + Fraction(eps)) * Fraction(2) ** e / n
    return _floats([(n * i - total) * scale.numerator for i in a[which]], scale.denominator)


def exact_backward(grad, values, weight=1.0, eps=0.0):
    """(dx, dweight, dbias) of one channel, each number rounded once to float64."""
    (a, e), (g, f) = _integers(values), _integers(grad)
    n, total, grad_total = len(a), sum(a), sum(g)
    unit_a, unit_g = Fraction(2) ** e / n, Fraction(2) ** f
    centred = [n * i - total for i in a]  # times unit_a: x - mean
    product = sum(i * j for i, j in zip(centred, g, strict=True))
    v = exact_statistics(values)[1] + Fraction(eps)
    invstd = _rsqrt(v)
    # dx = weight * invstd * (dy - mean(dy) - (x - mean) / v * mean(dy * (x - mean)))
    outer = Fraction(weight) * invstd * unit_g
    pieces = outer, outer * Fraction(grad_total, n), outer * product * unit_a**2 / (n * v)
    denominator = math.lcm(*(p.denominator for p in pieces))
    p, q, r = (int(piece * denominator) for piece in pieces)
    dx = _floats([p * j - q - r * i for i, j in zip(centred, g, strict=True)], denominator)
    return dx, float(product * unit_a * unit_g * invstd), float(grad_total * unit_g)


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
