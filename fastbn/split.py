"""The backward pass in two halves, between which sums of several parts are added up."""

from dataclasses import dataclass

import numpy as np

from ._arrays import layout as _layout
from ._arrays import validate
from ._kernels import passes
from ._runtime import errors
from .functional import check_out, complete, given_stats, parameter
from .stats import buffer_of

_set = object.__setattr__  # of what is frozen


@dataclass(frozen=True, slots=True, eq=False)
class GradSums:
    """Sums over a gradient, one of each a channel: what parts of a batch have to tell each other.

    Parameters
    ----------
    sum_dy : array_like, shape (C,)
        Sum of dy; kept as read-only float64. The gradient of the bias.
    sum_dy_xhat : array_like, shape (C,)
        Sum of ``dy * xhat``; kept as read-only float64. The gradient of the weight.

    Notes
    -----
    ``a + b`` are the sums of both parts. Instances can be pickled. Ioffe & Szegedy (2015), section
    3, has both sums in its gradients of gamma and beta.

    Examples
    --------
    >>> import fastbn
    >>> part = fastbn.GradSums([1.0, 2.0], [0.0, 0.5])
    >>> (part + part).sum_dy
    array([2., 4.])
    """

    sum_dy: np.ndarray
    sum_dy_xhat: np.ndarray

    def __post_init__(self):
        given = validate.array("sum_dy", self.sum_dy)
        self._keep(
            np.array(validate.vector("sum_dy", given, given.size), np.float64),
            np.array(validate.vector("sum_dy_xhat", self.sum_dy_xhat, given.size), np.float64),
        )

    def _keep(self, sum_dy: np.ndarray, sum_dy_xhat: np.ndarray) -> "GradSums":
        for name, value in (("sum_dy", sum_dy), ("sum_dy_xhat", sum_dy_xhat)):
            value.setflags(write=False)
            _set(self, name, value)
        return self

    def __reduce__(self):
        return GradSums, (self.sum_dy, self.sum_dy_xhat)  # read-only again

    def __add__(self, other: "GradSums") -> "GradSums":
        if not isinstance(other, GradSums):
            return NotImplemented
        mine, others = self.sum_dy.size, other.sum_dy.size
        if mine != others:
            raise ValueError(f"sums should have the same number of channels, got {mine}, {others}")
        with np.errstate(all="ignore"):
            return _new(self.sum_dy + other.sum_dy, self.sum_dy_xhat + other.sum_dy_xhat)


def _new(sum_dy: np.ndarray, sum_dy_xhat: np.ndarray) -> GradSums:
    """`GradSums` of arrays that are ours: nothing is checked or copied."""
    return object.__new__(GradSums)._keep(sum_dy, sum_dy_xhat)


def backward_sums(
    dy, x, stats, *, eps: float = 1e-5, channel_axis: int | tuple[int, ...] = 1
) -> GradSums:
    """Sums over the gradient of a part of a batch: the first half of `backward`.

    Parameters
    ----------
    dy : array_like
        Gradient with respect to the output: of x's shape, floating point.
    x : array_like
        A part of the input, perhaps empty; at least 2-D, see `batch_norm` for dtypes.
    stats : Stats or (mean, var)
        Of the whole batch: those that normalised `x`.
    eps : float, default 1e-5
        Added to the variance.
    channel_axis : int or tuple of int, default 1
        The axis of the channels, or several: see `batch_norm`.

    Returns
    -------
    GradSums
        ``sum(dy)`` and ``sum(dy * xhat)`` of each channel, to be added to those of other parts.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape or range.

    Notes
    -----
    Ioffe & Szegedy (2015), section 3. `stats` of data that had weights, and gradients of what was
    activated, give other sums than the gradient of that: see `forward`, which takes both.

    Examples
    --------
    A batch in two parts has the gradient of the whole:

    >>> import numpy as np
    >>> import fastbn
    >>> x = np.array([[1.0], [3.0], [5.0]])
    >>> dy = np.array([[1.0], [0.0], [0.0]])
    >>> parts = slice(0, 1), slice(1, 3)
    >>> stats = fastbn.merge_stats([fastbn.batch_stats(x[part]) for part in parts])
    >>> first, second = (fastbn.backward_sums(dy[part], x[part], stats) for part in parts)
    >>> sums = first + second
    >>> dx = [fastbn.backward_input(dy[part], x[part], stats, sums) for part in parts]
    >>> y, saved = fastbn.forward(x)
    >>> np.allclose(np.concatenate(dx), fastbn.backward(dy, saved).dx)
    True
    """
    dy, x, flat, layout, buffer, _ = _part(dy, x, stats, eps, channel_axis)
    sums = np.zeros((2, layout.channels))
    if layout.plan is not None:
        w = parameter("weight", None, 1.0, layout)
        given = flat, _layout.flatten(dy, layout), flat, w, buffer, sums
        passes.backward_part(layout.plan, passes.REDUCE, float(layout.n), *given)
        with np.errstate(all="ignore"):
            sums[1] *= buffer[2]
    return _new(sums[0], sums[1])


def backward_input(
    dy,
    x,
    stats,
    sums: GradSums,
    weight=None,
    *,
    eps: float = 1e-5,
    channel_axis: int | tuple[int, ...] = 1,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Gradient with respect to a part of a batch: the second half of `backward`.

    Parameters
    ----------
    dy, x : array_like
        As in `backward_sums`.
    stats : Stats
        Of the whole batch: their count is the number of values that `sums` are sums of.
    sums : GradSums
        The sums of all parts, added up.
    weight : array_like, shape (C,), optional
        Scale of each channel; without it 1.
    eps : float, default 1e-5
        Added to the variance.
    channel_axis : int or tuple of int, default 1
        The axis of the channels, or several: see `batch_norm`.
    out : ndarray, optional
        Written and returned: any strides; of x's shape and the output's dtype. May be `dy` itself.

    Returns
    -------
    ndarray
        ``weight * invstd * (dy - sum_dy / n - xhat * sum_dy_xhat / n)``, of x's shape, dtype
        (float64 for integers) and memory order.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape or range; nothing is changed.

    Notes
    -----
    Ioffe & Szegedy (2015), section 3, simplified. With fixed statistics, which are constants, no
    sums are needed: ``normalize(dy, (0, var), weight)``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x, dy = np.array([[1.0], [3.0], [5.0]]), np.array([[1.0], [0.0], [0.0]])
    >>> stats = fastbn.batch_stats(x)
    >>> sums = fastbn.backward_sums(dy, x, stats, eps=0.0)
    >>> dx = fastbn.backward_input(dy, x, stats, sums, eps=0.0)
    >>> (dx * np.sqrt(24)).round(6).ravel()
    array([ 0.5, -1. ,  0.5])
    """
    dy, x, flat, layout, buffer, count = _part(dy, x, stats, eps, channel_axis)
    if count is None:
        raise TypeError("stats should be a Stats, which has a count, got (mean, var)")
    if not isinstance(sums, GradSums):
        raise TypeError(f"sums should be a GradSums, got {type(sums).__name__}")
    if sums.sum_dy.size != layout.channels:
        raise ValueError(f"sums should have {layout.channels} channels, got {sums.sum_dy.size}")
    w = parameter("weight", weight, 1.0, layout)
    if out is not None:
        check_out(out, layout, dy, dy=dy, x=x, weight=weight)
    other, products = _layout.flatten(dy, layout), np.zeros_like(buffer[2])
    np.divide(sums.sum_dy_xhat, buffer[2], out=products, where=buffer[2] != 0.0)
    values, result = _layout.target(layout, out, flat, other)
    if layout.plan is not None:
        total = count or 1.0  # of no values, the sums are 0
        given = flat, other, values, w, buffer, np.stack((sums.sum_dy, products))
        passes.backward_part(layout.plan, passes.WRITE, total, *given)
    return _layout.finish(layout, result, out)


def _part(dy, x, stats, eps, channel_axis):
    """Of both halves: dy, x, x flat and its layout, statistics with invstd, and their count."""
    x, dy = validate.array("x", x), validate.array("dy", dy)
    flat, layout = _layout.see(x, channel_axis)
    validate.gradient("dy", dy, layout.shape)
    eps = errors.number("eps", eps, 0.0)
    mean, second, count = given_stats(stats, layout)
    if not _layout.suits(layout, dy):
        flat, layout = _layout.see(x, layout.axes, wide=True)
    buffer = complete(buffer_of(stats, mean, second), count, eps)
    return dy, x, flat, layout, buffer, count
