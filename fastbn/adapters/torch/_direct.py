"""Batch norm without PyTorch's dispatcher, where nothing looks at operations.

The dispatcher takes 30 us forward and as long backward for an operator in Python, more than the
kernels of a small batch take (AMD EPYC, PyTorch 2.13, 2026-11).
"""

import torch
from torch import Tensor

from . import _operators as ops
from . import _passes
from ._tensors import array, dense, tensor

# Where PyTorch does not say whether something looks, all calls go through its dispatcher.
_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_transforms = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
_batched = torch._C._functorch.is_legacy_batchedtensor  # by `torch.autograd`, whose type is Tensor
_PLAIN = {Tensor, torch.nn.Parameter, type(None)}


def direct(*given: Tensor | None) -> bool:
    """Whether an operator and a plain function of tensors are no different to PyTorch's tools."""
    return (
        not torch.compiler.is_compiling()
        and _PLAIN.issuperset(map(type, given))
        and _modes() == 0
        and not _transforms()
        and not torch.jit.is_tracing()
    )


class BatchNorm(torch.autograd.Function):
    """Output, and what was saved: of x, statistics, weight, bias, eps and an epilogue.

    ``stats``: a mean and a variance, or None for those of the batch.
    """

    @staticmethod
    def forward(ctx, x, stats, weight, bias, eps, residual, activation, negative_slope):
        if stats is not None:
            stats = array(stats[0]), array(stats[1])
        epilogue = residual, activation, negative_slope
        y, saved = _passes.forward(x, stats, weight, bias, eps, *epilogue)
        kept = residual if activation is not None else None
        ctx.save_for_backward(x, weight, bias, kept)  # where PyTorch sees whether they change
        ctx.saved, ctx.eps, ctx.epilogue = saved.with_input(None), eps, epilogue[1:]
        return y, saved.stats

    @staticmethod
    def backward(ctx, dy, _):
        x, weight, bias, residual = ctx.saved_tensors
        needs = ctx.needs_input_grad
        wanted = needs[0], *needs[2:4]
        if direct(dy) and not (torch.is_grad_enabled() or _batched(dy)):
            saved = ctx.saved.with_input(dense(x), array(residual))
            grads = _passes.backward(dy, x, saved, weight, bias, wanted)
        else:
            stats, var = ctx.saved.stats, None
            stats = tensor(stats.to_array())
            if ctx.saved.fixed:
                stats, var = stats[2:].reshape(4, -1)[[0, 2]]  # of a count of 1
            given = dy, x, stats, var, weight, bias, ctx.eps, list(wanted), residual
            grads = ops.backward(*given, *ctx.epilogue)
        dx, dweight, dbias, dresidual = grads
        if needs[5] and ctx.epilogue[0] is None:
            dresidual = dy
        pairs = zip((dx, dweight, dbias, dresidual), (*wanted, needs[5]), strict=True)
        dx, dweight, dbias, dresidual = (grad if need else None for grad, need in pairs)
        return dx, None, dweight, dbias, None, dresidual, None, None
