"""Folding: the batch norm of inference, taken into the weights of the layer beside it."""

import math

import numpy as np

from ._arrays import validate
from ._runtime import errors
from .layers import BatchNorm


def fold_conv(
    w, b, bn: BatchNorm, *, transposed: bool = False, groups: int = 1, bn_first: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of a convolution that equals a convolution and its batch norm.

    Parameters
    ----------
    w : array_like, shape (Cout, Cin / groups, ...)
        PyTorch's order, with one axis or more of the kernel behind these two; transposed: (Cin,
        Cout / groups, ...).
    b : array_like, shape (Cout,), or None
        Bias of the convolution; None is 0.
    bn : BatchNorm
        Its parameters, eps and running statistics count, in training mode as well.
    transposed : bool, default False
        Whether the convolution is a transposed one.
    groups : int, default 1
        Groups of the convolution. Stride and dilation do not matter.
    bn_first : bool, default False
        Whether the batch norm stands before the convolution. Then the result is equal where the
        convolution pads with nothing: zeros that are padded after the batch norm are no zeros
        before it, so that **with zero padding the edges of the output are wrong**.

    Returns
    -------
    w, b : ndarray
        New arrays of the shape of `w` and of shape (Cout,), computed in float64. Both have w's
        dtype; float64 for integers and booleans.

    Raises
    ------
    TypeError, ValueError
        If `bn` is no `BatchNorm`, does not know its features or running statistics, has an
        activation, several channel axes or another number of features; if an array is of the wrong
        kind or shape; if `groups` does not divide the first axis of `w`; if both `transposed` and
        `bn_first` are True, which no convolution equals.

    Notes
    -----
    Ioffe & Szegedy (2015), section 3.1: with fixed statistics batch norm is a linear map. Where
    ``running_var + eps`` is 0, the output is the bias of the batch norm, as in evaluation.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> bn = fastbn.BatchNorm(2, eps=0)
    >>> bn.running_mean[:], bn.running_var[:] = [1, 2], [4, 16]
    >>> w, b = fastbn.fold_conv(np.ones((2, 3, 1, 1)), None, bn)
    >>> w[:, 0, 0, 0], b
    (array([0.5 , 0.25]), array([-0.5, -0.5]))
    """
    if transposed and bn_first:
        raise ValueError(
            "bn_first should be False for a transposed convolution, got True: its outputs are sums "
            "of unequal numbers of terms, so that no bias equals the batch norm before it"
        )
    groups = errors.whole("groups", groups, 1)
    w = validate.array("w", w)
    if w.ndim < 3:
        wanted = "(in, out / groups, *kernel)" if transposed else "(out, in / groups, *kernel)"
        raise ValueError(f"w should have shape {wanted}, got {w.shape}")
    return _fold(w, b, bn, groups, bool(transposed), bool(bn_first))


def fold_linear(w, b, bn: BatchNorm, *, bn_first: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of a linear layer that equals a linear layer and its batch norm.

    Parameters
    ----------
    w : array_like, shape (out, in)
        Of ``y = x @ w.T + b``, as in PyTorch.
    b : array_like, shape (out,), or None
        None is 0.
    bn : BatchNorm
        Its parameters, eps and running statistics count, in training mode as well.
    bn_first : bool, default False
        Whether the batch norm stands before the linear layer.

    Returns
    -------
    w, b : ndarray, shapes (out, in) and (out,)
        New arrays, computed in float64. Both have w's dtype; float64 for integers and booleans.

    Raises
    ------
    TypeError, ValueError
        As `fold_conv` does.

    Notes
    -----
    Ioffe & Szegedy (2015), section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> bn = fastbn.BatchNorm(3, eps=0)
    >>> bn.running_mean[:] = [1, 2, 3]
    >>> w, b = fastbn.fold_linear(np.ones((2, 3)), [10, 20], bn, bn_first=True)
    >>> b
    array([ 4., 14.])
    """
    w = validate.array("w", w)
    if w.ndim != 2:
        raise ValueError(f"w should have shape (out, in), got {w.shape}")
    return _fold(w, b, bn, 1, False, bool(bn_first))


def _fold(
    w: np.ndarray, b, bn: BatchNorm, groups: int, transposed: bool, bn_first: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Both functions: a linear layer is a convolution whose kernel has one value."""
    dtype = validate.dtypes("w", w.dtype)[1]
    if w.size == 0:
        raise ValueError(f"w should have no axis of length 0, got shape {w.shape}")
    first, second = w.shape[:2]
    if first % groups:
        raise ValueError(
            f"groups should divide the first axis of w of shape {w.shape}, got {groups}"
        )
    on_second = transposed or bn_first  # the axis of w along which the channels of bn lie
    channels = second * groups if on_second else first
    outputs = second * groups if transposed else first
    mean, scale, offset = _coefficients(bn, w.shape, channels, "input" if bn_first else "output")
    bias = np.zeros(outputs)
    if b is not None:
        bias += validate.vector("b", b, outputs)
    blocks = w.reshape(groups, first // groups, second, math.prod(w.shape[2:]))
    blocks = blocks.astype(np.float64, order="C")
    along = (groups, 1, second, 1) if on_second else (groups, first // groups, 1, 1)
    if bn_first:
        shift = (offset - mean * scale).reshape(along)
        bias += _sums((blocks * shift).reshape(outputs, -1))
    else:
        bias = (bias - mean) * scale + offset  # a bias may be as far from 0 as the mean
    blocks *= scale.reshape(along)
    return blocks.reshape(w.shape).astype(dtype, copy=False), bias.astype(dtype, copy=False)


def _coefficients(
    bn: BatchNorm, shape: tuple[int, ...], channels: int, side: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, scale and offset of ``(x - mean) * scale + offset``, in float64."""
    _check_layer(bn)
    if bn.num_features != channels:
        raise ValueError(
            f"bn should have {channels} features, one for each {side} channel of w of shape "
            f"{shape}, got {bn.num_features}"
        )
    mean, var, weight, bias = (
        np.full(channels, default, np.float64)
        if (given := getattr(bn, name)) is None
        else validate.vector(f"bn.{name}", given, channels).astype(np.float64)
        for name, default in (("running_mean", 0), ("running_var", 0), ("weight", 1), ("bias", 0))
    )
    deviation = np.sqrt(var + errors.number("bn.eps", bn.eps, 0.0))
    scale = np.divide(weight, deviation, out=np.zeros(channels), where=deviation != 0)
    return mean, scale, bias


def _check_layer(bn: BatchNorm) -> None:
    """Whether a layer is a linear map of one channel axis, and which."""
    if not isinstance(bn, BatchNorm):
        raise TypeError(f"bn should be a fastbn.BatchNorm, got {type(bn).__name__}")
    if not bn.track_running_stats:
        raise ValueError("bn should have running statistics, got track_running_stats=False")
    if bn.num_features is None:
        raise ValueError(
            "bn should know its number of features, got num_features=None: call it, or load a state"
        )
    for name in ("running_mean", "running_var"):
        if getattr(bn, name) is None:
            raise ValueError(f"bn should have running statistics, got {name}=None")
    if bn.activation is not None:
        raise ValueError(
            f"bn should have no activation, which is not linear, got {bn.activation!r}: apply it "
            "after the folded layer"
        )
    if isinstance(axes := validate.channel_axis(bn.channel_axis), tuple):
        raise ValueError(f"bn should have one channel axis, got {axes}")


def _sums(rows: np.ndarray) -> np.ndarray:
    """Sum of each row, of at least one value: halves are added to halves, which rounds little.

    Additions of elements have the same bits on every processor; `np.sum` has not.
    """
    while (length := rows.shape[1]) > 1:
        half = (length + 1) // 2
        folded = rows[:, :half].copy()
        folded[:, : length - half] += rows[:, half:]
        rows = folded
    return rows[:, 0]
