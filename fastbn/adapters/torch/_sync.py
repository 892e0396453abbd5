"""One batch norm over the batches of several processes, on CPUs."""

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

import fastbn

from . import _passes
from ._functional import takes_kind
from ._tensors import array, dense, tensor


def group(given: Any) -> Any:
    """The processes that normalise together; None where there is but this one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    found = given if given is not None else distributed.group.WORLD
    return found if distributed.get_world_size(found) > 1 else None


def batch_norm(*given) -> Tensor:
    """Normalise with the statistics of all, and move the running ones: see `_batch_norm`.

    Messages are no part of a graph that is compiled.
    """
    if "torch._dynamo" not in sys.modules:  # whose import takes as long as PyTorch's
        return _batch_norm(*given)
    return torch.compiler.disable(_batch_norm)(*given)


def _batch_norm(x, running_mean, running_var, weight, bias, momentum, eps, count, group) -> Tensor:
    """Without a momentum, running statistics are averages over ``count`` batches."""
    given = running_mean, running_var, weight, bias
    if not takes_kind(x, *given, True, eps):
        raise _refusal(x, *given, eps)
    with _passes.team():
        mine = fastbn.batch_stats(dense(x))
    stats = fastbn.merge_stats(_gathered(mine, group))
    if stats.count == 1:
        raise ValueError(
            "Expected more than 1 value per channel when training, in all processes together, got "
            f"input size {x.shape} in this one"
        )
    y = _Synchronized.apply(x, weight, bias, stats, eps, group)
    if running_mean is not None and running_var is not None:
        _passes.update_running_stats(running_mean, running_var, stats, momentum, count)
    return y


def _refusal(x, running_mean, running_var, weight, bias, eps) -> Exception:
    """PyTorch's error of two values a channel, or one that says what came."""
    if x.dim() >= 2:
        mean, var = (r if r is None else r.clone() for r in (running_mean, running_var))
        two = x.new_ones((2, x.shape[1]))
        functional.batch_norm(two, mean, var, weight, bias, True, 0.0, eps)
    return TypeError(
        "SyncBatchNorm takes dense floating-point tensors of at least 2 axes, with weight and bias "
        f"of their dtype, got a tensor of {x.dtype}, {x.layout} and {x.dim()} axes"
    )


def _gathered(mine: fastbn.Stats, group: Any) -> list[fastbn.Stats]:
    """The statistics of each process, in their order.

    Messages end with a 1, which shorter ones, of fewer channels, do not have in this place: Gloo
    lets them pass. What gets a longer one, it ends.
    """
    message = tensor(np.append(mine.to_array(), 1.0))
    messages = [torch.zeros_like(message) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(messages, message, group)
    arrays = [array(message) for message in messages]
    fewer = [rank for rank, a in enumerate(arrays) if a[-1] != 1.0]
    if fewer:
        raise ValueError(
            "input should have as many channels in all processes of the group, got "
            f"{mine.mean.size} here and fewer in {fewer}"
        )
    return [fastbn.Stats.from_array(a[:-1]) for a in arrays]


class _Synchronized(Function):
    """Normalise with statistics that all processes share, and differentiate through them."""

    @staticmethod
    def forward(ctx, x, weight, bias, stats, eps, group):
        ctx.save_for_backward(x, weight, bias)
        ctx.stats, ctx.eps, ctx.group = stats, eps, group
        return _passes.normalize(x, stats, weight, bias, eps, *_passes.PLAIN)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight, bias = ctx.saved_tensors
        stats, eps, values, dy = ctx.stats, ctx.eps, dense(x), array(dy)
        with _passes.team():
            sums = fastbn.backward_sums(dy, values, stats, eps=eps)
        mine = sums.sum_dy_xhat, sums.sum_dy
        dx = None
        if ctx.needs_input_grad[0]:
            message = tensor(np.stack(mine))
            distributed.all_reduce(message, group=ctx.group)
            total = fastbn.GradSums(*array(message)[::-1])
            with _passes.team():
                dx = fastbn.backward_input(dy, values, stats, total, array(weight), eps=eps)
            dx = tensor(dx, x)
        own = [
            tensor(np.array(grad)).to(parameter.dtype) if need else None
            for grad, parameter, need in zip(
                mine, (weight, bias), ctx.needs_input_grad[1:3], strict=True
            )
        ]
        return dx, *own, None, None, None
