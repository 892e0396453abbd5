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
_PLAIN = {Tensor, torch.nn.Parameter, type(None)}  # not classes derived from them, which may look
_tracing = getattr(torch._C, "_is_tracing", torch.jit.is_tracing)
_included = torch._C._dispatch_tls_is_dispatch_key_included
_PRE_DISPATCH = torch._C.DispatchKey.PreDispatch  # its modes are on a stack of their own
_in_batches = torch._C._functorch.is_legacy_batchedtensor  # `is_grads_batched`


def direct(*given: Tensor | None) -> bool:
    """Whether an operator and a plain function of tensors are no different to PyTorch's tools."""
    return (
        not torch.compiler.is_compiling()
        and _PLAIN.issuperset(map(type, given))
        and _modes() == 0
        and not _transforms()
        and not _tracing()
        and not _included(_PRE_DISPATCH)
    )


class BatchNorm(torch.autograd.Function):
    """Output of x, weight, bias, a residual or None, and what has no gradient.

    That is: ``stats``, a mean and a variance, or None for those of the batch; ``running``, a mean
    and a variance to move, the momentum and a count, or None; eps, activation and slope.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, residual, constants):
        stats, running, eps, activation, negative_slope = constants
        if stats is not None:
            stats = array(stats[0]), array(stats[1])
        epilogue = residual, activation, negative_slope
        y, saved = _passes.forward(x, stats, weight, bias, eps, *epilogue)
        if running is not None:  # before tensors are saved, where a checkpoint may end its pass
            mean, var, *rest = running
            _passes.update_running_stats(mean, var, saved.stats, *rest)
        kept = residual if activation is not None else None
        ctx.save_for_backward(x, weight, bias, kept)  # where PyTorch sees whether they change
        ctx.saved, ctx.eps, ctx.epilogue = saved.with_input(None), eps, epilogue[1:]
        ctx.strides = x.stride()
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight, bias, residual = ctx.saved_tensors
        *needs, needs_residual, _ = ctx.needs_input_grad
        ops.refuse_tangents(dy)
        as_it_was = x.stride() == ctx.strides  # hooks of saved tensors may lay it out anew
        if as_it_was and direct(dy) and not torch.is_grad_enabled() and not _in_batches(dy):
            saved = ctx.saved.with_input(dense(x), array(residual))
            grads = _passes.backward(dy, x, saved, weight, bias, needs)
        else:
            stats, var = ctx.saved.stats, None
            stats = tensor(stats.to_array())
            if ctx.saved.fixed:
                stats, var = stats[2:].reshape(4, -1)[[0, 2]]  # of a count of 1
            given = dy, x, stats, var, weight, bias, ctx.eps, needs, residual
            grads = ops.differentiable_backward(*given, *ctx.epilogue)
        dx, dweight, dbias, dresidual = grads
        if ctx.epilogue[0] is None:
            dresidual = dy
        return (
            dx if needs[0] else None,
            dweight if needs[1] else None,
            dbias if needs[2] else None,
            dresidual if needs_residual else None,
            None,
        )
