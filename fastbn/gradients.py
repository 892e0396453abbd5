"""A forward pass that can be differentiated, and its backward pass."""

from typing import Any, NamedTuple

import numpy as np

from . import _call, _layout, _passes, _validate
from ._running import Moments
from .stats import Stats, moments_of, of_buffer


class Saved:
    """What `backward` needs of a forward pass: references and per-channel vectors only.

    Attributes
    ----------
    x : ndarray
        The input itself, not a copy: it must not change before the backward pass.
    layout : Layout
        How its values lie in memory, and which axis holds the channels.
    weight : ndarray
        Scale of each channel, in the dtype of the arithmetic; read-only.
    stats : Stats
        The statistics that normalised `x`.
    fixed : bool
        Whether they were given, and so are constants to the backward pass.
    """

    __slots__ = ("_buffer", "_count", "_weight", "fixed", "layout", "x")

    def __init__(self, x, layout, weight, buffer, count, fixed):
        self.x, self.layout, self._weight = x, layout, weight
        self._buffer, self._count, self.fixed = buffer, count, fixed

    @property
    def weight(self) -> np.ndarray:
        view = self._weight.view()
        view.flags.writeable = False
        return view

    @property
    def moments(self) -> Moments:
        """Count, mean and m2 of `stats`, as views that nobody should write to."""
        return moments_of(self._buffer, self._count)

    @property
    def stats(self) -> Stats:
        return of_buffer(self._buffer, self._count)


class Grads(NamedTuple):
    """Gradients with respect to input, weight and bias: arrays, or None where not needed."""

    dx: Any
    dweight: Any
    dbias: Any


def forward(
    x,
    weight=None,
    bias=None,
    *,
    eps: float = 1e-5,
    channel_axis: int = 1,
    stats=None,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, Saved]:
    """Normalise each channel and keep what the backward pass needs.

    Parameters
    ----------
    x : array_like
        At least 2-D; see `batch_norm` for dtypes. The backward pass reads it again.
    weight, bias : array_like, shape (C,), optional
        Scale and shift of each channel; without them 1 and 0.
    eps : float, default 1e-5
        Added to the variance.
    channel_axis : int, default 1
        Statistics run over all other axes.
    stats : Stats or (mean, var), optional
        Fixed statistics, constants to the backward pass. Without them the batch's own are used,
        and the backward pass differentiates through them.
    out : ndarray, optional
        Written and returned; any strides; of x's shape and the output's dtype. Not `x`.

    Returns
    -------
    y : ndarray
        Of x's shape, dtype (float64 for integers) and memory order.
    saved : Saved
        References and per-channel vectors; ``saved.stats`` are the statistics used.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape or range, or a channel of a batch has a single
        value; nothing is changed.

    Notes
    -----
    Ioffe & Szegedy (2015), algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> y, saved = fastbn.forward(np.array([[1.0, 10.0], [3.0, 30.0]]))
    >>> saved.stats.mean, saved.stats.var()
    (array([ 2., 20.]), array([  1., 100.]))
    """
    return forward_any(x, weight, bias, eps, channel_axis, stats, out, least=2)


def forward_any(x, weight, bias, eps, channel_axis, stats, out, least) -> tuple[np.ndarray, Saved]:
    """`forward`, with the least number of values per channel that batch statistics may have."""
    x = _validate.array("x", x)
    flat, layout = _layout.see(x, channel_axis)
    scale = _call.parameter("weight", weight, 1.0, layout)
    shift = _call.parameter("bias", bias, 0.0, layout)
    eps = _validate.number("eps", eps, 0.0)
    if out is not None:
        _call.check_out(out, layout, None, x=x, weight=weight, bias=bias)
    if stats is not None:
        task = _passes.WRITE
        buffer, count = _call.given(stats, layout.channels)
    else:
        if least > 1:
            _validate.more_than_one_value(layout.n, layout.shape)
        task = _passes.REDUCE | _passes.WRITE
        buffer, count = np.empty(3 * layout.channels), float(layout.n)
    y = _call.run_forward(flat, layout, scale, shift, eps, buffer, count, task, out)
    return y, Saved(x, layout, scale, buffer, count, stats is not None)


def backward(dy, saved: Saved, *, needs=(True, True, True), out: np.ndarray | None = None) -> Grads:
    """Gradients of a `forward` pass.

    Parameters
    ----------
    dy : array_like
        Gradient with respect to the output: of its shape, floating point.
    saved : Saved
        From `forward`.
    needs : tuple of three bools
        Whether dx, dweight and dbias are wanted.
    out : ndarray, optional
        dx is written here: any strides; of x's shape and the output's dtype. May be `dy` itself.

    Returns
    -------
    Grads
        Named tuple ``(dx, dweight, dbias)``, None where not needed. dx has the memory order of x,
        dweight and dbias are float32 for float16, bfloat16 and float32 data, else float64.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or shape; nothing is changed.

    Notes
    -----
    With ``xhat = (x - mean) * invstd``, ``dbias = sum(dy)``, ``dweight = sum(dy * xhat)`` and
    ``dx = weight * invstd * (dy - dbias / n - xhat * dweight / n)`` (Ioffe & Szegedy 2015, section
    3, simplified); with fixed statistics ``dx = weight * invstd * dy``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> y, saved = fastbn.forward(np.array([[1.0], [3.0], [5.0]]), eps=0.0)
    >>> dx, dweight, dbias = fastbn.backward(np.array([[1.0], [0.0], [0.0]]), saved)
    >>> dbias, (dx * np.sqrt(24)).round(6).ravel()
    (array([1.]), array([ 0.5, -1. ,  0.5]))
    """
    if not isinstance(saved, Saved):
        raise TypeError(f"saved should come from forward, got {type(saved).__name__}")
    if not isinstance(needs, tuple | list) or len(needs) != 3:
        raise ValueError(f"needs should be three bools (dx, dweight, dbias), got {needs!r}")
    dy = _validate.array("dy", dy)
    layout = saved.layout
    _validate.gradient("dy", dy, layout.shape)
    if out is not None:
        _call.check_out(out, layout, dy, dy=dy, x=saved.x, weight=saved._weight)
    channels = layout.channels
    if layout.plan is None:
        empty = _layout.finish(layout, _layout.target(layout, out, saved.x)[1], out)
        grads = (empty, np.zeros(channels, layout.compute), np.zeros(channels, layout.compute))
        return Grads(*(g if need else None for g, need in zip(grads, needs, strict=True)))
    x, flat = _layout.flatten(saved.x, layout), _layout.flatten(dy, layout)
    task = _passes.FIXED if saved.fixed else 0
    if needs[1] or needs[2] or not saved.fixed:
        task |= _passes.REDUCE
    values: Any = None
    dx: Any = None
    if needs[0]:
        task |= _passes.WRITE
        values, dx = _layout.target(layout, out, x, flat)
    dweight, dbias = np.empty(channels, layout.compute), np.empty(channels, layout.compute)
    _passes.backward(
        layout.plan,
        task,
        x,
        flat,
        x if values is None else values,
        saved._weight,
        saved._buffer,
        dweight,
        dbias,
    )
    return Grads(
        None if dx is None else _layout.finish(layout, dx, out),
        dweight if needs[1] else None,
        dbias if needs[2] else None,
    )
