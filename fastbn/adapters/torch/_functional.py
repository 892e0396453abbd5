"""Batch norm of tensors: by fastbn's operators where they take it, else by PyTorch's function."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from . import _operators as ops
from . import _vmap as _vmap
from ._direct import BatchNorm, direct

# By dtype of the input, those of vectors, all of which have the same.
_KINDS = {
    torch.float64: (torch.float64,),
    torch.float32: (torch.float32,),
    torch.float16: (torch.float16, torch.float32),
    torch.bfloat16: (torch.bfloat16, torch.float32),
}


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm`, on the CPU by fastbn.

    Parameters
    ----------
    input : Tensor
        At least 2-D; channels on axis 1. float32 and float64 are computed as they are, float16 and
        bfloat16 in float32. Of another device, layout or dtype, it goes on to PyTorch's function.
    running_mean, running_var : Tensor of shape (C,), or None
        Needed unless `training`; in training they are moved in place.
    weight, bias : Tensor of shape (C,), optional
        Of the input's dtype, or float32 for 16 bits.
    training : bool, default False
        Use and record the statistics of the batch.
    momentum : float, default 0.1
        Weight of the **new** value in the running statistics.
    eps : float, default 1e-5
        Added to the variance.

    Returns
    -------
    Tensor
        Of the input's shape and dtype, in the memory format that PyTorch's function gives it.

    Raises
    ------
    ValueError, RuntimeError
        What PyTorch's function raises.

    Notes
    -----
    Ioffe & Szegedy (2015), algorithm 1. First and second derivatives are exact.

    Examples
    --------
    >>> import torch
    >>> from fastbn.adapters.torch import batch_norm
    >>> batch_norm(torch.tensor([[1.0, 10.0], [3.0, 30.0]]), None, None, training=True)
    tensor([[-1.0000, -1.0000],
            [ 1.0000,  1.0000]])
    """
    given = input, running_mean, running_var, weight, bias
    if not _is_meant(given, training, momentum, eps):
        return functional.batch_norm(*given, training, momentum, eps)
    return fused(*given, training, momentum, eps)


def _is_meant(given: tuple[Any, ...], training: Any, momentum: Any, eps: Any) -> bool:
    """Whether arguments are of their kinds: PyTorch says best which are not."""
    return (
        isinstance(given[0], Tensor)
        and all(isinstance(vector, Tensor | None) for vector in given[1:])
        and type(training) is bool
        and isinstance(momentum, int | float)
        and isinstance(eps, int | float)
    )


def fused(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
    count: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
    negative_slope: float = 0.01,
    in_place: bool = False,
) -> Tensor:
    """`batch_norm`, a residual and an activation.

    Without a momentum, running statistics are averages over ``count`` batches. ``in_place``: the
    residual is added as ``+=`` does, which neither broadcasts the output nor changes its dtype.
    """
    given = x, running_mean, running_var, weight, bias
    if not takes(*given, training, eps) or not _suits(x, residual):
        if momentum is None:
            momentum = 0.0 if count is None else 1.0 / float(count)
        y = functional.batch_norm(*given, training, momentum, eps)
        if residual is not None:
            y = y.add_(residual) if in_place else y + residual
        return activated(y, activation, negative_slope)
    epilogue = residual, activation, negative_slope
    if not direct(*given, residual):
        return _dispatched(*given, training, momentum, eps, count, *epilogue)
    stats = running = None
    if not training:
        stats = running_mean, running_var
    elif running_mean is not None:
        running = running_mean, running_var, momentum, count
    constants = stats, running, eps, activation, negative_slope
    return BatchNorm.apply(x, weight, bias, residual, constants)


def _dispatched(
    x, running_mean, running_var, weight, bias, training, momentum, eps, count, *epilogue
) -> Tensor:
    """`fused` by operators."""
    if not training:
        given = x, running_mean, running_var, weight, bias
        return ops.differentiable_normalize(*given, eps, *epilogue)
    y, stats = ops.differentiable_forward(x, weight, bias, eps, *epilogue)
    if running_mean is not None:
        ops.update_running_stats(running_mean, running_var, stats, momentum, count)
    return y


def takes(x, running_mean, running_var, weight, bias, training: bool, eps: float) -> bool:
    """Whether fastbn takes what `torch.nn.functional.batch_norm` is given.

    All else is PyTorch's to compute or to refuse, as one value a channel in training; and so are
    derivatives in forward mode, which operators in Python have not.
    """
    if not takes_kind(x, running_mean, running_var, weight, bias, training, eps):
        return False
    return x.numel() > (x.shape[1] if training else 0) and forward_ad._current_level < 0


def takes_kind(x, running_mean, running_var, weight, bias, training: bool, eps: float) -> bool:
    """`takes`, of any number of values."""
    kinds = _KINDS.get(x.dtype)
    if (
        kinds is None
        or not x.is_cpu
        or x.layout is not torch.strided
        or x.is_nested
        or x.dim() < 2
        or not eps > 0.0  # of 0, a constant channel is not a number to PyTorch
        or (running_mean is None) != (running_var is None)
        or (running_mean is None and not training)
    ):
        return False
    channels, kind = x.shape[1], None
    for vector in (running_mean, running_var, weight, bias):
        if vector is not None:
            if vector.numel() != channels or vector.dim() != 1 or not vector.is_cpu:
                return False
            dtype = vector.dtype
            if (kind is not None and dtype is not kind) or dtype not in kinds:
                return False
            kind = dtype
    return running_mean is None or not (running_mean.requires_grad or running_var.requires_grad)


def _suits(x: Tensor, residual: Tensor | float | None) -> bool:
    """Whether a kernel takes a residual: PyTorch's addition would broadcast it, or its dtype."""
    if not isinstance(residual, Tensor):
        return residual is None
    return residual.shape == x.shape and residual.dtype == x.dtype


def activated(y: Tensor, activation: str | None, negative_slope: float) -> Tensor:
    """An activation in an operation of its own."""
    if activation is None:
        return y
    if activation == "relu":
        return functional.relu(y)
    return functional.leaky_relu(y, negative_slope)
