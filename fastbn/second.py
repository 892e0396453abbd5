"""Second derivatives: the gradient of a `backward` pass."""

from typing import Any

import numpy as np

from ._arrays import layout as _layout
from ._arrays import validate
from ._kernels import passes
from .functional import Saved, constant

_DOUBLE = np.dtype(np.float64)


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
    if saved.options is not None and saved.options.any():
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
    dweight = dweight.reshape(layout.channel_shape).astype(layout.compute, copy=False)
    return _layout.finish(layout, ddy, None), _layout.finish(layout, dx, None), dweight


def _per_channel(name: str, value, layout: _layout.Layout) -> np.ndarray | None:
    """A number a channel, or None."""
    if value is None:
        return None
    if len(layout.axes) > 1:
        value = validate.channels_flat(name, layout.channel_shape, value)
    return validate.vector(name, value, layout.channels, _DOUBLE)


def _of_batch(layout, saved, x, dy, u, a, b):
    """ddy, dx and dweight, statistics being those of the batch."""
    n, c, compute = float(layout.n), layout.channels, layout.compute
    zero, of_dy, of_u, products = constant(0.0, c, _DOUBLE), *np.empty((3, 2, c))
    weight, stats = saved._weight, saved.buffer
    ddy, dx = _layout.target(layout, None, x, u), _layout.target(layout, None, x, dy)
    # ddy is not read again: stored past the caches, it leaves them to the other four arrays. All of
    # (64, 32, 32, 32) takes 0.76 ms, not 0.89 (float32, AMD EPYC, 2026-11).
    both = passes.REDUCE | passes.WRITE | passes.CROWDED
    passes.backward_part(layout.plan, both, n, x, u, ddy[0], weight, stats, of_u)
    plain = np.zeros((4, c))  # statistics by which a sum is that of products
    passes.backward_part(layout.plan, passes.REDUCE, n, u, dy, u, weight, plain, products)
    passes.backward_part(layout.plan, passes.REDUCE, n, x, dy, x, weight, stats, of_dy)
    factors, sums, dweight = np.empty((2, c), compute), np.empty((2, 2, c)), np.empty(c, compute)
    of_both = of_dy, of_u, products, zero if a is None else a, n, factors, sums, dweight
    if passes.second_order(weight, stats, *of_both):
        unit = _unit(stats)
        passes.backward_part(layout.plan, passes.WRITE, n, x, dy, dx[0], factors[0], unit, sums[0])
    else:
        _affine(layout, dx[0], x, stats[0], sums[1])
        _add(layout, dx[0], dy, plain, factors[0])
    _add(layout, dx[0], u, plain, factors[1])
    if a is not None or b is not None:
        factor = zero if a is None else a * stats[2]
        _add(layout, ddy[0], x, stats, factor, zero if b is None else b)
    return ddy[1], dx[1], dweight


def _of_fixed(layout, saved, x, dy, u, a, b):
    """ddy, dx and dweight, statistics being constants."""
    n, c, stats = float(layout.n), layout.channels, saved.buffer
    ddy, dx = _layout.target(layout, None, x, u), _layout.target(layout, None, x, dy)
    zero, plain, products = constant(0.0, c, _DOUBLE), np.zeros((4, c)), np.empty((2, c))
    given = u, dy, u, saved._weight, plain, products
    passes.backward_part(layout.plan, passes.REDUCE, n, *given)
    _affine(layout, ddy[0], u, zero, (zero if b is None else b, saved._weight * stats[2]))
    factor = zero if a is None else a * stats[2]
    _add(layout, ddy[0], x, stats, factor)
    _affine(layout, dx[0], dy, zero, (zero, factor))
    return ddy[1], dx[1], stats[2] * products[1]


def _unit(stats: np.ndarray) -> np.ndarray:
    """Statistics of the same mean, and of variance 1."""
    unit = stats.copy()
    unit[2] = 1.0
    return unit


def _add(layout, made, x, stats, factor, level: Any = 0.0) -> None:
    """Add ``factor * (x - mean) + level`` a channel, as a backward pass that writes over its dy."""
    n, sums = float(layout.n), np.empty((2, layout.channels))
    sums[0], sums[1] = level, factor
    sums *= -n
    one = constant(1.0, layout.channels, layout.compute)
    given = x, made, made, one, _unit(stats), sums
    passes.backward_part(layout.plan, passes.WRITE, n, *given)


def _affine(layout, made, x, center, coefficients) -> None:
    """Write ``coefficients[1] * (x - center) + coefficients[0]`` a channel."""
    level, factor = np.array(coefficients, layout.compute)
    one = constant(1.0, layout.channels, _DOUBLE)
    passes.evaluate(layout.plan, None, x, made, factor, level, center, one, 0.0)
