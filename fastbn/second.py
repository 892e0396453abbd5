"""Second derivatives: the gradient of a `backward` pass."""

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


def _per_channel(name: str, value, layout: _layout.Layout) -> np.ndarray:
    """A number a channel, 0 unless given."""
    if value is None:
        return np.zeros(layout.channels)
    if len(layout.axes) > 1:
        value = validate.channels_flat(name, layout.channel_shape, value)
    return validate.vector(name, value, layout.channels, np.dtype(np.float64))


def _of_batch(layout, saved, x, dy, u, a, b):
    """ddy, dx and dweight, statistics being those of the batch."""
    n, c, compute = float(layout.n), layout.channels, layout.compute
    factors, dweight = np.empty((3, c), compute), np.empty(c, compute)
    plain, sums = np.empty((2, 2, c)), np.empty((2, 2, c))
    of_dy, of_u = (_sums(layout, saved, saved.buffer, array, x) for array in (dy, u))
    of_both = a, b, n, factors, plain, sums, dweight
    given = saved._weight, saved.buffer, of_dy, of_u, _products(layout, saved, u, dy), *of_both
    fits = passes.second_order(*given)
    ddy = _combine(layout, saved, u, x, factors[0], plain[0], sums[0] if fits & 1 else None)
    dx = _combine(layout, saved, dy, x, factors[1], plain[1], sums[1] if fits & 2 else None)
    _add(layout, dx[0], u, factors[2])
    return ddy[1], dx[1], dweight


def _of_fixed(layout, saved, x, dy, u, a, b):
    """ddy, dx and dweight, statistics being constants."""
    r = saved.buffer[2]
    ddy = _combine(layout, saved, u, x, saved._weight * r, np.stack((b, a * r)), None)
    dx = _affine(layout, dy, constant(0.0, layout.channels, _DOUBLE), np.stack((0.0 * a, r * a)))
    return ddy[1], dx[1], r * _products(layout, saved, u, dy)[1]


def _sums(layout, saved, buffer, dy, x) -> np.ndarray:
    """Sums of dy and of ``dy * (x - mean)``, by statistics in a buffer."""
    sums = np.empty((2, layout.channels))
    given = x, dy, x, saved._weight, buffer, sums
    passes.backward_part(layout.plan, passes.REDUCE, float(layout.n), *given)
    return sums


def _products(layout, saved, u, dy) -> np.ndarray:
    """Sums of dy and of ``u * dy``."""
    return _sums(layout, saved, np.zeros((4, layout.channels)), dy, u)


def _combine(layout, saved, u, x, factor, plain, sums):
    """``factor * u + plain[1] * (x - mean) + plain[0]`` a channel; flat, and in its shape.

    ``sums`` have a backward pass write that; None where they cannot.
    """
    if sums is None:
        made = _affine(layout, x, saved.buffer[0], plain)
        _add(layout, made[0], u, factor)
        return made
    flat, shaped = _layout.target(layout, None, x, u)
    stats = saved.buffer.copy()
    stats[2] = 1.0
    given = x, u, flat, factor, stats, sums
    passes.backward_part(layout.plan, passes.WRITE, float(layout.n), *given)
    return flat, shaped


def _add(layout, made, u, factor) -> None:
    """Add ``factor * u`` a channel: what a backward pass does with x, written over dy."""
    n, stats, sums = float(layout.n), *np.zeros((2, 4, layout.channels))
    stats[2], sums[1] = 1.0, -n * np.asarray(factor, np.float64)
    one = constant(1.0, layout.channels, layout.compute)
    passes.backward_part(layout.plan, passes.WRITE, n, u, made, made, one, stats, sums[:2])


def _affine(layout, x, center, plain):
    """``plain[1] * (x - center) + plain[0]`` a channel; flat, and in the layout's shape."""
    flat, shaped = _layout.target(layout, None, x)
    level, factor = np.asarray(plain, layout.compute)
    one = constant(1.0, layout.channels, _DOUBLE)
    passes.evaluate(layout.plan, None, x, flat, factor, level, center, one, 0.0)
    return flat, shaped
