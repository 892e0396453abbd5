"""Second derivatives: the gradient of a `backward` pass."""

from typing import Any

import numpy as np

from ._arrays import layout as _layout
from ._arrays import validate
from ._kernels import passes
from .functional import Saved

# A coefficient may be so many times another one before a product of theirs might overflow.
FARTHEST = 2.0**40


def double_backward(
    dy, saved: Saved, ddx, ddweight=None, ddbias=None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of `backward` with respect to its dy, and to the input and weight of `forward`.

    For losses that gradients take part in, such as gradient penalties: `backward` maps dy to dx,
    dweight and dbias, and this is the vector-Jacobian product of that map.

    Parameters
    ----------
    dy : array_like
        What `backward` was given: of the output's shape, floating point.
    saved : Saved
        From `forward`, with statistics of the batch or fixed ones.
    ddx : array_like
        Gradient with respect to dx: of its shape, floating point.
    ddweight, ddbias : array_like, shape (C,), optional
        Gradients with respect to dweight and dbias; without them 0.

    Returns
    -------
    ddy, dx : ndarray
        Gradients with respect to dy and to x, of its shape, dtype (float64 for integers) and memory
        order.
    dweight : ndarray, shape (C,)
        Gradient with respect to the weight: float32 for float16, bfloat16 and float32 data, else
        float64. That of the bias is 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or shape, or `forward` had weights, a residual or an
        activation.

    Notes
    -----
    The gradient of ``dx = weight * invstd * (dy - mean(dy) - xhat * mean(dy * xhat))``, ``dweight =
    sum(dy * xhat)`` and ``dbias = sum(dy)`` (Ioffe & Szegedy 2015, section 3). With ``u = ddx``,
    ``c = weight * invstd`` and ``g = dy * (ddweight - c * mean(u * xhat)) - c * u * mean(dy *
    xhat)``::

        ddy = c * (u - mean(u) - xhat * mean(u * xhat)) + ddweight * xhat + ddbias
        dx = invstd * (g - mean(g) - xhat * (mean(g * xhat) + c * s / n))
        dweight = invstd * s
        s = sum(u * dy) - n * mean(u) * mean(dy) - n * mean(u * xhat) * mean(dy * xhat)

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x, dy = np.array([[1.0], [3.0], [5.0]]), np.array([[1.0], [0.0], [0.0]])
    >>> y, saved = fastbn.forward(x, eps=0.0)
    >>> ddy, dx, dweight = fastbn.double_backward(dy, saved, np.array([[0.0], [0.0], [1.0]]))
    >>> (ddy * np.sqrt(24)).round(6).ravel()
    array([ 0.5, -1. ,  0.5])
    """
    if not isinstance(saved, Saved):
        raise TypeError(f"saved should come from forward, got {type(saved).__name__}")
    if saved.options is not None:
        raise ValueError("saved should come from forward without weights, residual or activation")
    dy, u, layout = validate.array("dy", dy), validate.array("ddx", ddx), saved.layout
    validate.gradient("dy", dy, layout.shape)
    validate.gradient("ddx", u, layout.shape)
    a, b = (_per_channel(*item, layout) for item in (("ddweight", ddweight), ("ddbias", ddbias)))
    if not _layout.suits(layout, dy, u):
        layout = _layout.widened(layout)
    x, dy, u = (_layout.flatten(array, layout) for array in (saved.x, dy, u))
    if layout.plan is None:
        ddy, dx = (_layout.target(layout, None, x)[1] for _ in range(2))
        dweight = np.zeros(layout.channels)
    else:
        with np.errstate(all="ignore"):
            of = _of_fixed if saved.fixed else _of_batch
            ddy, dx, dweight = of(layout, saved, x, dy, u, a, b)
            dweight = dweight.astype(layout.compute)
    dweight = dweight.reshape(layout.channel_shape).astype(layout.compute, copy=False)
    return _layout.finish(layout, ddy, None), _layout.finish(layout, dx, None), dweight


def _per_channel(name: str, value, layout: _layout.Layout) -> np.ndarray:
    """A number a channel, 0 unless given."""
    if value is None:
        return np.zeros(layout.channels)
    value = validate.channels_flat(name, layout.channel_shape, value)
    return validate.vector(name, value, layout.channels, np.dtype(np.float64))


def _of_batch(layout, saved, x, dy, u, a, b):
    """ddy, dx and dweight, statistics being those of the batch."""
    n, w, r = float(layout.n), saved._weight.astype(np.float64), saved.buffer[2]
    dy_mean, dy_xhat = _sums(layout, saved.buffer, dy, x, saved._weight) / n
    u_mean, u_xhat = _sums(layout, saved.buffer, u, x, saved._weight) / n
    s = _products(layout, u, dy, saved._weight)[1] - n * (u_mean * dy_mean + u_xhat * dy_xhat)
    c = w * r
    ddy = _combine(layout, saved, u, x, c, (a - c * u_xhat) * r, b - c * u_mean)
    of_u, of_dy = -c * dy_xhat, a - c * u_xhat  # of both in g
    slope = -r * (of_u * u_xhat + of_dy * dy_xhat + c * s / n)
    level = -r * (of_u * u_mean + of_dy * dy_mean)
    dx = _combine(layout, saved, dy, x, r * of_dy, slope * r, level)
    return ddy[1], _scaled(layout, u, r * of_u, plus=dx[0])[1], r * s


def _of_fixed(layout, saved, x, dy, u, a, b):
    """ddy, dx and dweight, statistics being constants."""
    w, r = saved._weight.astype(np.float64), saved.buffer[2]
    ddy = _combine(layout, saved, u, x, w * r, a * r, b)
    return ddy[1], _scaled(layout, dy, r * a)[1], r * _products(layout, u, dy, saved._weight)[1]


def _sums(layout, buffer, dy, x, weight) -> np.ndarray:
    """Sums of dy and of ``dy * xhat``, by statistics with invstd; any weight."""
    sums = np.empty((2, layout.channels))
    given = x, dy, x, weight, buffer, sums
    passes.backward_part(layout.plan, passes.REDUCE, float(layout.n), *given)
    sums[1] *= buffer[2]
    return sums


def _products(layout, u, dy, weight) -> np.ndarray:
    """Sums of dy and of ``u * dy``."""
    plain = np.zeros((4, layout.channels))
    plain[2] = 1.0
    return _sums(layout, plain, dy, u, weight)


def _combine(layout, saved, u, x, of_u, of_x, level):
    """``of_u * u + of_x * (x - mean) + level`` a channel; flat, and in the layout's shape."""
    of_u = of_u.astype(layout.compute)
    if np.all((abs(of_x) <= FARTHEST * abs(of_u)) & (of_u != 0.0)):
        flat, shaped = _layout.target(layout, None, x, u)
        n, stats, sums = float(layout.n), saved.buffer.copy(), np.empty((2, layout.channels))
        stats[2] = 1.0
        sums[0], sums[1] = level, of_x
        sums *= -n / of_u.astype(np.float64)
        given = x, u, flat, of_u, stats, sums
        passes.backward_part(layout.plan, passes.WRITE, n, *given)
        return flat, shaped
    plus, _ = _scaled(layout, x, of_x, saved.buffer[0], level)
    return _scaled(layout, u, of_u, plus=plus)


def _scaled(layout, x, factor, center: Any = 0.0, level: Any = 0.0, plus=None):
    """``factor * (x - center) + level`` a channel, plus an array; flat, and in its shape."""
    flat, shaped = _layout.target(layout, None, x)
    mean, var = np.zeros(layout.channels), np.ones(layout.channels)
    weight, bias = np.empty((2, layout.channels), layout.compute)
    mean[:], weight[:], bias[:] = center, factor, level
    more = None
    if plus is not None:
        more = passes.options(passes.RESIDUAL, float(layout.n), 0.0, residual=plus)
    passes.evaluate(layout.plan, more, x, flat, weight, bias, mean, var, 0.0)
    return flat, shaped
