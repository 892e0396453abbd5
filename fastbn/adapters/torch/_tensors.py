"""Tensors as arrays of the same memory, and back."""

from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# The C library keeps freed memory for blocks of up to the largest that it was seen to free, if that
# is below 32 MB, and asks the system for all others, which clears their pages. A convolution of
# 1 ms took 1.8 as long after a batch norm of fastbn's, whose outputs the C library does not see,
# until it had freed one of 31 MB, which nobody touches (glibc, AMD EPYC, 2026-11).
torch.empty(31 << 20, dtype=torch.uint8, device="cpu")
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(x: Tensor) -> bool:
    """Whether PyTorch's batch norm gives an output that has its channels last in memory."""
    if x.dim() not in _LAST or x.is_contiguous():
        return False
    if x.is_contiguous(memory_format=_LAST[x.dim()]):
        return True
    sizes, strides, least = x.shape, x.stride(), 0
    for axis in (1, *range(x.dim() - 1, 1, -1)):  # from the innermost one
        if strides[axis] < max(least, 1):
            return False
        least = strides[axis] * sizes[axis]
    return strides[0] >= least


def memory_format(x: Tensor) -> torch.memory_format:
    """That of PyTorch's output."""
    if not channels_last(x):
        return torch.contiguous_format
    return _LAST[x.dim()]


@lru_cache(maxsize=1024)
def _strides(shape: tuple[int, ...], last: bool) -> tuple[int, ...]:
    """Strides of a dense tensor, which those of axes of length 1 may differ from in NumPy."""
    order = (0, *range(2, len(shape)), 1) if last else range(len(shape))
    strides, step = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return tuple(strides)


def array(x: Tensor | None) -> Any:
    """A tensor's memory."""
    if x is None:
        return None
    if x.requires_grad:
        x = x.detach()
    if x.is_neg():  # whose memory has the other sign
        x = x.resolve_neg()
    if x.dtype is torch.bfloat16:
        return x.view(torch.int16).numpy().view(_BFLOAT16)
    return x.numpy()


def dense(x: Tensor) -> np.ndarray:
    """A tensor's memory if it is dense, that of a copy if not: in the output's memory format."""
    return array(x if x.is_contiguous() else x.contiguous(memory_format=memory_format(x)))


def tensor(a: np.ndarray, like: Tensor | None = None) -> Tensor:
    """An array's memory; ``like``: with strides as the output has them for this input."""
    if a.dtype == _BFLOAT16:
        made = torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)
    else:
        made = torch.from_numpy(a)
    if like is not None:
        strides = _strides(a.shape, channels_last(like))
        if made.stride() != strides:
            made = made.as_strided(a.shape, strides)
    return made


def blank(x: Tensor) -> Tensor:
    """An uninitialised output for an input."""
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))
