"""Batch normalization as a function: `batch_norm` in PyTorch's order, and `normalize`."""

import numpy as np

from . import _call, _layout, _passes, _validate
from ._running import move_running_stats
from .stats import moments_of


def batch_norm(
    x,
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Normalise each channel of a batch, in the order and meaning of PyTorch's function.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias`` with the batch's mean and population
    variance in training, the running ones otherwise.

    Parameters
    ----------
    x : array_like
        At least 2-D. float32 and float64 are computed as they are, float16 and bfloat16 in
        float32, integers and booleans as float64.
    running_mean, running_var : ndarray, shape (C,), optional
        Needed unless `training`. In training they are updated in place (any stride, any float
        dtype), the variance with the batch's unbiased one.
    weight, bias : array_like, shape (C,), optional
        Scale and shift of each channel; without them 1 and 0.
    training : bool, default False
        Use and record the statistics of the batch.
    momentum : float, default 0.1
        Weight of the **new** value in the running statistics.
    eps : float, default 1e-5
        Added to the variance. 0 is allowed: a constant channel then gives its bias.
    channel_axis : int, default 1
        Statistics run over all other axes.
    out : ndarray, optional
        Written and returned; any strides; of x's shape and the output's dtype. May be `x` itself.

    Returns
    -------
    ndarray
        Of x's shape, dtype (float64 for integers) and memory order.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape or range, or a channel has a single value in
        training; nothing is changed.

    Notes
    -----
    Ioffe & Szegedy (2015), algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> fastbn.batch_norm(x, training=True).round(3)
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> fastbn.batch_norm(x, np.zeros(2), np.ones(2)).round(3)
    array([[ 1., 10.],
           [ 3., 30.]])
    """
    x = _validate.array("x", x)
    flat, layout = _layout.see(x, channel_axis)
    channels = layout.channels
    if training:
        if running_mean is not None and running_var is not None:
            _validate.running_pair(running_mean, running_var, channels)
        elif running_mean is not None:
            _validate.running("running_mean", running_mean, channels)
        elif running_var is not None:
            _validate.running("running_var", running_var, channels)
    else:
        _validate.defined("running_mean", running_mean, channels)
        _validate.defined("running_var", running_var, channels)
    scale = _call.parameter("weight", weight, 1.0, layout)
    shift = _call.parameter("bias", bias, 0.0, layout)
    eps = _validate.number("eps", eps, 0.0)
    momentum = _validate.number("momentum", momentum)
    if out is not None:
        others = {"running_mean": running_mean, "running_var": running_var}
        _call.check_out(out, layout, x, x=x, **others, weight=weight, bias=bias)
    if not training:
        given = running_mean, running_var
        return _call.run_evaluation(flat, layout, scale, shift, eps, *given, out)
    _validate.more_than_one_value(layout.n, layout.shape)
    buffer = np.empty(3 * channels)
    task, count = _passes.REDUCE | _passes.WRITE, float(layout.n)
    y = _call.run_forward(flat, layout, scale, shift, eps, buffer, count, task, out)
    if running_mean is not None or running_var is not None:
        moments = moments_of(buffer, count)
        move_running_stats(running_mean, running_var, moments, momentum, 1, "propagate")
    return y


def normalize(
    x,
    stats,
    weight=None,
    bias=None,
    *,
    eps: float = 1e-5,
    channel_axis: int = 1,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Normalise with given statistics, and keep nothing for a backward pass.

    Parameters
    ----------
    x : array_like
        At least 2-D; see `batch_norm` for dtypes.
    stats : Stats or (mean, var)
        One mean and variance a channel.
    weight, bias : array_like, shape (C,), optional
        Scale and shift of each channel; without them 1 and 0.
    eps : float, default 1e-5
        Added to the variance.
    channel_axis : int, default 1
        The axis of the channels.
    out : ndarray, optional
        Written and returned; any strides; of x's shape and the output's dtype. May be `x` itself.

    Returns
    -------
    ndarray
        ``(x - mean) / sqrt(var + eps) * weight + bias``, of x's shape and memory order.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape or range; nothing is changed.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> fastbn.normalize(x, fastbn.batch_stats(x), eps=0.0)
    array([[-1., -1.],
           [ 1.,  1.]])
    """
    x = _validate.array("x", x)
    flat, layout = _layout.see(x, channel_axis)
    scale = _call.parameter("weight", weight, 1.0, layout)
    shift = _call.parameter("bias", bias, 0.0, layout)
    eps = _validate.number("eps", eps, 0.0)
    buffer, count = _call.given(stats, layout.channels)
    if out is not None:
        _call.check_out(out, layout, x, x=x, weight=weight, bias=bias)
    return _call.run_forward(flat, layout, scale, shift, eps, buffer, count, _passes.WRITE, out)
