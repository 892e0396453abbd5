"""Batch normalization as functions: `batch_norm`, `normalize`, `forward` and `backward`."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ._arrays import layout as _layout
from ._arrays import options as _options
from ._arrays import validate
from ._arrays.options import SLOPE
from ._kernels import passes
from ._runtime import errors, memory
from .stats import Stats, buffer_of, move_running_stats, of_buffer, of_channels

RUNNING = "running_mean", "running_var"
PARAMETERS = "weight", "bias"  # the names that messages give them
_REDUCE_AND_WRITE = passes.REDUCE | passes.WRITE


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
    channel_axis: int | tuple[int, ...] = 1,
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
    channel_axis : int or tuple of int, default 1
        Statistics run over all other axes. Of several axes, each combination is a channel: what has
        a value a channel then has the shape of these axes, in their order, or is flat.
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
    x = validate.array("x", x)
    flat, layout = _layout.see(x, channel_axis)
    channels, ordinary = layout.channels, False
    given = running_mean, running_var
    if len(layout.axes) > 1:
        running_mean, running_var = _running_flat(layout, running_mean, running_var, training)
    if not training:
        if running_mean is None or running_var is None:
            validate.defined(running_mean, running_var)
        fixed = fixed_pair(RUNNING, running_mean, running_var, channels)
    elif running_mean is not None and running_var is not None:
        ordinary = validate.running_pair(running_mean, running_var, channels)
    elif running_mean is not None:
        validate.running("running_mean", running_mean, channels)
    elif running_var is not None:
        validate.running("running_var", running_var, channels)
    w = parameter("weight", weight, 1.0, layout)
    b = parameter("bias", bias, 0.0, layout)
    eps = errors.number("eps", eps, 0.0)
    momentum = errors.number("momentum", momentum)
    if out is not None:
        others = dict(zip(RUNNING, given, strict=True))
        check_out(out, layout, x, x=x, **others, weight=weight, bias=bias)
    if not training:
        return _run_evaluation(flat, layout, w, b, eps, *fixed, out)
    if layout.n == 1:
        raise validate.single_value(layout.shape)
    buffer, count = of_channels(channels), float(layout.n)
    y = _run_forward(flat, layout, w, b, eps, buffer, count, _REDUCE_AND_WRITE, out)
    if running_mean is not None or running_var is not None:
        move_running_stats(running_mean, running_var, ordinary, buffer, count, momentum)
    if len(layout.axes) > 1:  # or else their own
        for whole, moved in zip(given, (running_mean, running_var), strict=True):
            if moved is not None and moved is not whole:
                whole[...] = moved.reshape(whole.shape)
    return y


def _running_flat(layout, running_mean, running_var, training: bool):
    """Running statistics of several axes of channels, flat."""
    shape, pair = layout.channel_shape, (running_mean, running_var)
    flatten = validate.running_flat if training else validate.channels_flat
    if training and all(isinstance(value, np.ndarray) for value in pair):
        validate.apart(*pair)
    return [
        value if value is None else flatten(name, shape, value)
        for name, value in zip(RUNNING, pair, strict=True)
    ]


def normalize(
    x,
    stats,
    weight=None,
    bias=None,
    *,
    eps: float = 1e-5,
    channel_axis: int | tuple[int, ...] = 1,
    residual=None,
    activation: str | None = None,
    negative_slope: float = SLOPE,
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
    channel_axis : int or tuple of int, default 1
        The axis of the channels, or several: see `batch_norm`.
    residual : array_like, optional
        Of x's shape: added before the activation.
    activation : {None, "relu", "leaky_relu"}
        Applied to the output, in the pass that writes it.
    negative_slope : float, default 0.01
        Of leaky_relu below 0, at least 0.
    out : ndarray, optional
        Written and returned; any strides; of x's shape and the output's dtype. May be `x` itself.

    Returns
    -------
    ndarray
        ``activation((x - mean) / sqrt(var + eps) * weight + bias + residual)``, of x's shape and
        memory order.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape or range; nothing is changed.

    Notes
    -----
    Ioffe & Szegedy (2015), section 3.1, where the statistics are those of a population.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> fastbn.normalize(x, fastbn.batch_stats(x), eps=0.0)
    array([[-1., -1.],
           [ 1.,  1.]])
    """
    x = validate.array("x", x)
    flat, layout = _layout.see(x, channel_axis)
    w = parameter("weight", weight, 1.0, layout)
    b = parameter("bias", bias, 0.0, layout)
    eps = errors.number("eps", eps, 0.0)
    mean, second, count = given_stats(stats, layout)
    asked = more = None
    if residual is not None or activation is not None or negative_slope is not SLOPE:
        asked = _options.checked(layout, None, residual, activation, negative_slope)
        residual = asked.residual
    if out is not None:
        check_out(out, layout, x, x=x, weight=weight, bias=bias, residual=residual)
    if asked is not None:
        flat, layout = _suited(x, flat, layout, asked)
        more = _options.of_pass(asked, layout)
    if count is None:
        return _run_evaluation(flat, layout, w, b, eps, mean, second, out, more)
    buffer = buffer_of(stats, mean, second)
    return _run_forward(flat, layout, w, b, eps, buffer, count, passes.WRITE, out, more)


def denormalize(
    y,
    stats,
    weight=None,
    bias=None,
    *,
    eps: float = 1e-5,
    channel_axis: int | tuple[int, ...] = 1,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The inverse of `normalize`: the input that belongs to an output.

    Parameters
    ----------
    y : array_like
        At least 2-D; see `batch_norm` for dtypes.
    stats : Stats or (mean, var)
        One mean and variance a channel: those that normalised.
    weight, bias : array_like, shape (C,), optional
        Scale and shift of each channel that were applied; without them 1 and 0.
    eps : float, default 1e-5
        What was added to the variance. With 0, a channel of variance 0 gives its mean.
    channel_axis : int or tuple of int, default 1
        The axis of the channels, or several: see `batch_norm`.
    out : ndarray, optional
        Written and returned; any strides; of y's shape and the output's dtype. May be `y` itself.

    Returns
    -------
    ndarray
        ``(y - bias) / weight * sqrt(var + eps) + mean``, of y's shape, dtype (float64 for integers)
        and memory order.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape or range, or a weight is 0; nothing is changed.

    Notes
    -----
    Ioffe & Szegedy (2015), algorithm 1, solved for x.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> stats = fastbn.batch_stats(x)
    >>> y = fastbn.normalize(x, stats, weight=[2.0, 3.0])
    >>> fastbn.denormalize(y, stats, weight=[2.0, 3.0]).round(6)
    array([[ 1., 10.],
           [ 3., 30.]])
    """
    y = validate.array("y", y)
    validate.axes(validate.channel_axis(channel_axis), y.shape, "y")
    validate.dtypes("y", y.dtype)
    flat, layout = _layout.see(y, channel_axis)
    w = np.asarray(parameter("weight", weight, 1.0, layout), np.float64)
    b = np.asarray(parameter("bias", bias, 0.0, layout), np.float64)
    eps = errors.number("eps", eps, 0.0)
    mean, second, count = given_stats(stats, layout)
    if zero := np.flatnonzero(w == 0).tolist():
        raise ValueError(f"weight should not be 0, which leaves nothing of x, got 0 at {zero}")
    if out is not None:
        check_out(out, layout, y, y=y, weight=weight, bias=bias)
    with np.errstate(all="ignore"):
        deviation = np.sqrt(np.asarray(second, np.float64) / (count or 1.0) + eps)
        # What `normalize` multiplies with, rounded as it is there.
        factor = np.asarray(w * (1.0 / deviation), layout.compute)
        scale = np.where(deviation == 0.0, 0.0, 1.0 / factor).astype(layout.compute)
    # `normalize` by mean `bias` and variance 1.
    shift, unit = np.asarray(mean, layout.compute), np.ones(layout.channels)
    return _run_evaluation(flat, layout, scale, shift, 0.0, b, unit, out)


def evaluate_any(x, mean, var, weight, bias, eps, names) -> np.ndarray:
    """`normalize` with a `fixed_pair`, and the names of weight and bias."""
    flat, layout = _layout.see(x, 1)
    w = parameter(names[0], weight, 1.0, layout)
    b = parameter(names[1], bias, 0.0, layout)
    eps = errors.number("eps", eps, 0.0)
    return _run_evaluation(flat, layout, w, b, eps, mean, var, None)


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
    options : Options or None
        Weights, residual and activation, if there are any: the residual itself, not a copy.
    """

    __slots__ = ("_bias", "_given", "_weight", "buffer", "count", "fixed", "layout", "options", "x")

    def __init__(self, x, layout, weight, bias, buffer, count, given, options):
        self.x = x
        self.layout = layout
        self._weight = weight
        self._bias = bias
        self.buffer = buffer  # of `of_channels`, which nobody should write to
        self.count = count
        self.fixed = given is not None
        self._given = given  # `Stats` or a pair
        self.options = options

    @classmethod
    def of(
        cls,
        x,
        stats,
        weight=None,
        bias=None,
        *,
        eps: float = 1e-5,
        channel_axis: int | tuple[int, ...] = 1,
        fixed: bool = False,
        residual=None,
        activation: str | None = None,
        negative_slope: float = SLOPE,
    ) -> "Saved":
        """What `forward` saves, of an input and statistics that were kept, without its work.

        Parameters
        ----------
        x, weight, bias, eps, channel_axis, residual, activation, negative_slope
            What `forward` was given. `bias` and `residual` are read where there is an activation;
            a residual has a gradient in any case.
        stats : Stats or (mean, var)
            ``saved.stats`` of the pass, or what it was given.
        fixed : bool, default False
            Whether `stats` were given, and so are constants to the backward pass.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind, shape or range.

        Examples
        --------
        >>> import numpy as np
        >>> import fastbn
        >>> x, dy = np.array([[1.0], [3.0], [5.0]]), np.array([[1.0], [0.0], [0.0]])
        >>> y, saved = fastbn.forward(x)
        >>> again = fastbn.Saved.of(x, saved.stats)
        >>> np.array_equal(fastbn.backward(dy, again).dx, fastbn.backward(dy, saved).dx)
        True
        """
        x = validate.array("x", x)
        flat, layout = _layout.see(x, channel_axis)
        w = parameter("weight", weight, 1.0, layout)
        b = parameter("bias", bias, 0.0, layout)
        eps = errors.number("eps", eps, 0.0)
        options = None
        if residual is not None or activation is not None or negative_slope is not SLOPE:
            options = _options.checked(layout, None, residual, activation, negative_slope)
            layout = _suited(x, flat, layout, options)[1]
        mean, second, count = given_stats(stats, layout)
        buffer = complete(buffer_of(stats, mean, second), count, eps)
        count = 1.0 if count is None else count
        return cls(x, layout, w, b, buffer, count, stats if fixed else None, options)

    def with_input(self, x: np.ndarray | None, residual: np.ndarray | None = None) -> "Saved":
        """A copy with this memory of x and the residual.

        For who keeps them elsewhere, and None here meanwhile.
        """
        for name, value in (("x", x), ("residual", residual)):
            if value is not None and value.shape != self.layout.shape:
                raise ValueError(f"{name} should have shape {self.layout.shape}, got {value.shape}")
        options = self.options and self.options._replace(residual=residual)
        own = self.layout, self._weight, self._bias, self.buffer, self.count
        return Saved(x, *own, self._given if self.fixed else None, options)

    @property
    def weight(self) -> np.ndarray:
        view = self._weight.view()
        view.flags.writeable = False
        return view

    @property
    def stats(self) -> Stats:
        if isinstance(self._given, Stats):
            return self._given  # with every digit
        return of_buffer(self.buffer, self.count)


class Grads(NamedTuple):
    """Gradients with respect to input, weight, bias and residual; None where not needed."""

    dx: Any
    dweight: Any
    dbias: Any
    dresidual: Any = None


def forward(
    x,
    weight=None,
    bias=None,
    *,
    eps: float = 1e-5,
    channel_axis: int | tuple[int, ...] = 1,
    stats=None,
    weights=None,
    residual=None,
    activation: str | None = None,
    negative_slope: float = SLOPE,
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
    channel_axis : int or tuple of int, default 1
        Statistics run over all other axes. Of several axes, see `batch_norm`.
    stats : Stats or (mean, var), optional
        Fixed statistics, constants to the backward pass. Without them the batch's own are used,
        and the backward pass differentiates through them.
    weights : array_like, optional
        How much each sample and position counts in the statistics: booleans (a mask) or real
        numbers, at least 0. Of x's shape without the axis of the channels, or with 1 in its place;
        axes of length 1 are repeated. The total weight takes the part of the number of values.
        Where a weight is 0, `x` may be NaN. Statistics that are given do not ask for weights.
    residual : array_like, optional
        Of x's shape: added before the activation. The backward pass may read it again.
    activation : {None, "relu", "leaky_relu"}
        Applied to the output, in the pass that writes it.
    negative_slope : float, default 0.01
        Of leaky_relu below 0, at least 0.
    out : ndarray, optional
        Written and returned; any strides; of x's shape and the output's dtype. Not `x`, nor
        `residual`.

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
    Ioffe & Szegedy (2015), algorithm 1. With weights w of total W, the mean is ``sum(w * x) / W``
    and the variance ``sum(w * (x - mean)**2) / W``. Weights whose total is 0 leave empty
    statistics: the output is that of mean 0 and variance 0, the gradients of x, weight and bias
    are 0.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> y, saved = fastbn.forward(np.array([[1.0, 10.0], [3.0, 30.0]]))
    >>> saved.stats.mean, saved.stats.var()
    (array([ 2., 20.]), array([  1., 100.]))

    The last sample is padding:

    >>> x = np.array([[1.0, 10.0], [3.0, 30.0], [np.nan, np.nan]])
    >>> y, saved = fastbn.forward(x, weights=[True, True, False])
    >>> saved.stats.mean, saved.stats.count
    (array([ 2., 20.]), 2.0)
    """
    options = None
    if weights is not None or residual is not None or activation is not None:
        options = weights, residual, activation, negative_slope
    elif negative_slope is not SLOPE:
        options = None, None, None, negative_slope
    return forward_any(x, weight, bias, eps, channel_axis, stats, options, out, 2, PARAMETERS)


def forward_any(
    x, weight, bias, eps, channel_axis, stats, options, out, minimum, names
) -> tuple[np.ndarray, Saved]:
    """`forward`, with the names of weight and bias.

    ``options``: weights, residual, activation and slope, or None. ``minimum``: of values per
    channel that batch statistics may have, at least.
    """
    x = validate.array("x", x)
    flat, layout = _layout.see(x, channel_axis)
    w = parameter(names[0], weight, 1.0, layout)
    b = parameter(names[1], bias, 0.0, layout)
    eps = errors.number("eps", eps, 0.0)
    asked = more = None
    if options is not None:
        asked = _options.checked(layout, *options)
    if out is not None:
        others = {} if options is None else {"weights": options[0], "residual": options[1]}
        check_out(out, layout, None, x=x, weight=weight, bias=bias, **others)
    if stats is not None:
        task = passes.WRITE
        mean, second, count = given_stats(stats, layout)
        buffer, count = buffer_of(stats, mean, second), 1.0 if count is None else count
    else:
        if layout.n == 1 < minimum:
            raise validate.single_value(layout.shape)
        task = _REDUCE_AND_WRITE
        buffer, count = of_channels(layout.channels), float(layout.n)
    if asked is not None:
        flat, layout = _suited(x, flat, layout, asked)
        more = _options.of_pass(asked, layout)
        if stats is None and asked.weights is not None:
            y, count = _run_weighted(flat, layout, w, b, eps, buffer, asked.weights, out, more)
            return y, Saved(x, layout, w, b, buffer, count, None, asked)
    y = _run_forward(flat, layout, w, b, eps, buffer, count, task, out, more)
    return y, Saved(x, layout, w, b, buffer, count, stats, asked)


def _suited(x, flat, layout, asked) -> tuple[np.ndarray, _layout.Layout]:
    """An array and its layout, so that kernels take a residual with it."""
    if _layout.suits(layout, asked.residual):
        return flat, layout
    return _layout.see(x, layout.axes, wide=True)


def _run_weighted(flat, layout, weight, bias, eps, buffer, weights, out, more):
    """`_run_forward` with the statistics of values that have weights; returns their count, too."""
    if weights.sum == 0.0:
        buffer[:] = 0.0
        y = _run_forward(flat, layout, weight, bias, eps, buffer, 0.0, passes.WRITE, out, more)
        return y, 0.0
    task, count = _REDUCE_AND_WRITE, weights.sum
    y = _run_forward(flat, layout, weight, bias, eps, buffer, count, task, out, more)
    weights.rescale(buffer)
    return y, weights.total


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
        Named tuple ``(dx, dweight, dbias, dresidual)``, None where not needed; `dresidual` only
        where there was a residual. dx and dresidual have the memory order of x, and new memory;
        dweight and dbias are float32 for float16, bfloat16 and float32 data, else float64.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or shape; nothing is changed.

    Notes
    -----
    With ``xhat = (x - mean) * invstd``, ``dbias = sum(dy)``, ``dweight = sum(dy * xhat)`` and
    ``dx = weight * invstd * (dy - dbias / n - xhat * dweight / n)`` (Ioffe & Szegedy 2015, section
    3, simplified); with fixed statistics ``dx = weight * invstd * dy``. With weights w of total W,
    ``w / W`` takes the place of ``1 / n``: the sums stay those of all positions. With an
    activation, dy is the gradient before it: at 0 and NaN that of PyTorch's functions.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> y, saved = fastbn.forward(np.array([[1.0], [3.0], [5.0]]), eps=0.0)
    >>> dx, dweight, dbias = fastbn.backward(np.array([[1.0], [0.0], [0.0]]), saved)[:3]
    >>> dbias, (dx * np.sqrt(24)).round(6).ravel()
    (array([1.]), array([ 0.5, -1. ,  0.5]))
    """
    if not isinstance(saved, Saved):
        raise TypeError(f"saved should come from forward, got {type(saved).__name__}")
    if not isinstance(needs, (tuple, list)) or len(needs) != 3:
        raise ValueError(f"needs should be three bools (dx, dweight, dbias), got {needs!r}")
    dy = validate.array("dy", dy)
    layout, asked = saved.layout, saved.options
    validate.gradient("dy", dy, layout.shape)
    residual = None if asked is None else asked.residual
    if out is not None:
        read = {"weight": saved._weight, "bias": saved._bias, "residual": residual}
        check_out(out, layout, dy, dy=dy, x=saved.x, **read)
    if layout.words is not None and not _layout.suits(layout, dy):
        layout = _layout.widened(layout)
    weightless = asked is not None and asked.weights is not None and asked.weights.sum == 0.0
    # Without any weight nothing but the residual has a gradient.
    task = passes.FIXED if saved.fixed or weightless else 0
    if needs[1] or needs[2] or not task:
        task |= passes.REDUCE
    x, flat = _layout.flatten(saved.x, layout), _layout.flatten(dy, layout)
    values: Any = x
    dx: Any = None
    dresidual: Any = None
    more = None
    if needs[0] or residual is not None:
        task |= passes.WRITE
        values, dx = _layout.target(layout, out if needs[0] else None, x, flat)
    if asked is not None:
        also = None
        if residual is not None:
            also, dresidual = _layout.target(layout, None, values)
        if layout.size:
            more = _options.of_pass(asked, layout, also, saved._bias)
    dweight = memory.vector(layout.channels, layout.compute)
    dbias = memory.vector(layout.channels, layout.compute)
    if layout.plan is not None:
        given = saved._weight, saved.buffer, dweight, dbias
        passes.backward(layout.plan, task, more, x, flat, values, *given)
    if layout.plan is None or (weightless and not saved.fixed):
        dweight[:] = dbias[:] = 0
        if needs[0]:
            values[:] = 0
    if len(layout.axes) > 1:
        dweight, dbias = (grad.reshape(layout.channel_shape) for grad in (dweight, dbias))
    return Grads(
        _layout.finish(layout, dx, out) if needs[0] else None,
        dweight if needs[1] else None,
        dbias if needs[2] else None,
        None if dresidual is None else _layout.finish(layout, dresidual, None),
    )


@lru_cache(maxsize=256)
def constant(value: float, channels: int, dtype: np.dtype) -> np.ndarray:
    """A vector that nobody should write to."""
    return np.full(channels, value, dtype)


def parameter(name: str, value, default: float, layout: _layout.Layout) -> np.ndarray:
    """Weight or bias in the dtype of the arithmetic."""
    if value is None:
        return constant(default, layout.channels, layout.compute)
    if (  # the ordinary case
        type(value) is np.ndarray
        and value.dtype is layout.compute
        and value.flags.carray
        and value.shape == (layout.channels,)
    ):
        return value
    if len(layout.axes) > 1:
        value = validate.channels_flat(name, layout.channel_shape, value)
    return validate.vector(name, value, layout.channels, layout.compute)


def given_stats(stats, layout: _layout.Layout) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Statistics from outside: mean, m2 and count, or mean, variance and None."""
    channels = layout.channels
    if isinstance(stats, Stats):
        if stats.mean.size != channels:
            raise ValueError(f"stats should have {channels} channels, got {stats.mean.size}")
        return stats.mean, stats.m2, stats.count
    if isinstance(stats, tuple) and len(stats) == 2:
        names, (mean, var) = ("stats mean", "stats var"), stats
        if len(layout.axes) > 1:
            mean = validate.channels_flat(names[0], layout.channel_shape, mean)
            var = validate.channels_flat(names[1], layout.channel_shape, var)
        return *fixed_pair(names, mean, var, channels), None
    raise TypeError(f"stats should be a Stats or (mean, var), got {type(stats).__name__}")


def complete(buffer: np.ndarray, count: float | None, eps: float) -> np.ndarray:
    """Statistics in a buffer (see `of_channels`), with invstd beside them."""
    invstd = buffer[2]
    with np.errstate(all="ignore"):
        np.add(buffer[1] / (count or 1.0), eps, out=invstd)
        np.divide(1.0, np.sqrt(invstd), out=invstd)
    invstd[np.isinf(invstd)] = 0.0  # a constant channel, and eps 0
    return buffer


def fixed_pair(names, mean, var, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """A mean and a variance to normalise with, as kernels take them."""
    if validate.ordinary_pair(mean, var, channels):
        return mean, var
    for name, value in zip(names, (mean, var), strict=True):
        validate.vector(name, value, channels)
    return np.array(mean, np.float64), np.array(var, np.float64)


def check_out(out, layout: _layout.Layout, alias, **others) -> None:
    """An output that is given may share memory with ``alias`` only."""
    validate.output("out", out, layout.shape, layout.dtype)
    validate.overlap(out, alias, **others)


def _run_evaluation(flat, layout, weight, bias, eps, mean, var, out, more=None) -> np.ndarray:
    """Normalise with a `fixed_pair`."""
    values, result = _layout.target(layout, out, flat)
    if layout.plan is not None:
        passes.evaluate(layout.plan, more, flat, values, weight, bias, mean, var, eps)
    return _layout.finish(layout, result, out)


def _run_forward(
    flat, layout, weight, bias, eps, buffer, count, task, out, more=None
) -> np.ndarray:
    """Run the forward pass; the statistics are left in ``buffer``."""
    values, result = _layout.target(layout, out, flat)
    if layout.plan is not None:
        passes.forward(
            layout.plan,
            task,
            more,
            flat,
            values,
            weight,
            bias,
            buffer,
            count or 1.0,  # of no values: variance 0, and a finite output
            eps,
        )
    elif task & passes.REDUCE:
        buffer[:] = 0.0
    return _layout.finish(layout, result, out)
