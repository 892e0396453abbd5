"""Batch norm as PyTorch's own operators ``fastbn::...``.

Registered with what they look like (`register_fake`), their derivatives (`register_autograd`) and
batches of them (`register_vmap`), they take part in `torch.compile`, `torch.export`, `torch.func`,
`torch.jit.trace` and tools that see each operation.

``stats`` and ``var``, together: `Stats.to_array` of a batch and None, which a backward pass
differentiates through, or a mean and a variance, which are constants. The last three arguments are
an epilogue (see `_passes`). Gradients that nobody needs are empty tensors.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import custom_op

import fastbn

from . import _passes
from ._passes import kind
from ._tensors import array, blank, tensor

Pair = tuple[Tensor, Tensor]
Three = tuple[Tensor, Tensor, Tensor]
Four = tuple[Tensor, Tensor, Tensor, Tensor]

TWICE = (
    "second derivatives of a batch norm that is fused with an activation or a residual are not "
    "implemented: use the model that fastbn.adapters.torch.convert(model, fuse=True) was given"
)
THRICE = "third derivatives of a batch norm are not implemented: use PyTorch's"
FORWARD = (
    "derivatives in forward mode of a batch norm's gradient are not implemented, unless its output "
    "was computed in forward mode too: move the call of the batch norm there"
)


def refuse_tangents(*grads: Tensor | None) -> None:
    """Raise an error for a tangent, which an operator in Python would drop."""
    if forward_ad._current_level < 0:
        return
    if any(grad is not None and forward_ad.unpack_dual(grad).tangent is not None for grad in grads):
        raise NotImplementedError(FORWARD)


def _given(stats: Tensor, var: Tensor | None):
    """Statistics as fastbn takes them."""
    if var is None:
        return fastbn.Stats.from_array(array(stats))
    return array(stats), array(var)


def operator(name: str, writes: tuple[str, ...] = ()):
    """A new operator of CPU tensors, called as torch.ops.fastbn.<name>.default."""
    return custom_op(f"fastbn::{name}", mutates_args=writes, device_types="cpu")


@operator("forward")
def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: str | None,
    negative_slope: float,
) -> Pair:
    """Output, and the statistics of the batch."""
    epilogue = residual, activation, negative_slope
    y, saved = _passes.forward(x, None, weight, bias, eps, *epilogue)
    return y, tensor(saved.stats.to_array())


@operator("normalize")
def normalize(
    x: Tensor,
    stats: Tensor,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: str | None,
    negative_slope: float,
) -> Tensor:
    """Output with fixed statistics."""
    epilogue = residual, activation, negative_slope
    return _passes.normalize(x, _given(stats, var), weight, bias, eps, *epilogue)


@operator("update_running_stats", writes=("running_mean", "running_var"))
def update_running_stats(
    running_mean: Tensor,
    running_var: Tensor,
    stats: Tensor,
    momentum: float | None,
    count: Tensor | None,
) -> None:
    """Move running statistics."""
    _passes.update_running_stats(running_mean, running_var, _given(stats, None), momentum, count)


@operator("backward")
def backward(
    dy: Tensor,
    x: Tensor,
    stats: Tensor,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    needs: list[bool],
    residual: Tensor | None,
    activation: str | None,
    negative_slope: float,
) -> Four:
    """Gradients of x, weight, bias and the residual."""
    epilogue = residual, activation, negative_slope
    saved = _passes.saved_of(x, _given(stats, var), weight, bias, eps, var is not None, *epilogue)
    grads = _passes.backward(dy, x, saved, weight, bias, needs)
    dx, dweight, dbias, dresidual = (x.new_empty(0) if g is None else g for g in grads)
    return dx, dweight, dbias, dresidual


@operator("double_backward")
def double_backward(
    dy: Tensor,
    x: Tensor,
    stats: Tensor,
    var: Tensor | None,
    weight: Tensor | None,
    eps: float,
    ddx: Tensor | None,
    ddweight: Tensor | None,
    ddbias: Tensor | None,
) -> Three:
    """Gradients of what `backward` gives: of dy, x and weight."""
    fixed = var is not None
    saved = _passes.saved_of(x, _given(stats, var), weight, None, eps, fixed, *_passes.PLAIN)
    ddy, dx, dweight = _passes.double_backward(dy, x, saved, weight, ddx, ddweight, ddbias)
    return ddy, dx, dweight


# --- what outputs look like -----------------------------------------------------------------------


@forward.register_fake
def _(x, weight, bias, eps, residual, activation, negative_slope):
    return blank(x), x.new_empty(2 + 4 * x.shape[1], dtype=torch.float64)


@normalize.register_fake
def _(x, stats, var, weight, bias, eps, residual, activation, negative_slope):
    return blank(x)


@update_running_stats.register_fake
def _(running_mean, running_var, stats, momentum, count):
    return None


@backward.register_fake
def _(dy, x, stats, var, weight, bias, eps, needs, residual, activation, negative_slope):
    c = x.shape[1]
    return (
        blank(x) if needs[0] else x.new_empty(0),
        x.new_empty(c if needs[1] else 0, dtype=kind(weight, x) if needs[1] else x.dtype),
        x.new_empty(c if needs[2] else 0, dtype=kind(bias, x) if needs[2] else x.dtype),
        x.new_empty(0) if residual is None else blank(x),
    )


@double_backward.register_fake
def _(dy, x, stats, var, weight, eps, ddx, ddweight, ddbias):
    return blank(x), blank(x), x.new_empty(x.shape[1], dtype=kind(weight, x))


# --- autograd -------------------------------------------------------------------------------------


def _keep(ctx, x, stats, var, weight, bias, eps, residual, activation, negative_slope) -> None:
    """Keep what a backward pass reads: the residual is where there is an activation."""
    kept = residual if activation is not None else None
    ctx.save_for_backward(x, stats, var, weight, bias, kept)
    ctx.eps, ctx.activation, ctx.negative_slope = eps, activation, negative_slope


def after_forward(ctx, inputs, output) -> None:
    """Keep what `gradients_of_forward` reads."""
    ctx.mark_non_differentiable(output[1])
    x, *rest = inputs
    _keep(ctx, x, output[1], None, *rest)


def after_normalize(ctx, inputs, output) -> None:
    """Keep what `gradients_of_normalize` reads."""
    x, stats, var, *rest = inputs
    if var is not None:  # running statistics, which a later batch moves
        stats, var = stats.detach().clone(), var.detach().clone()
    _keep(ctx, x, stats, var, *rest)


def _gradients(ctx, dy, needs: tuple[bool, ...], needs_residual: bool) -> list[Any]:
    """Of x, weight, bias and residual."""
    refuse_tangents(dy)
    x, stats, var, weight, bias, residual = ctx.saved_tensors
    grads, activated = [None] * 4, ctx.activation is not None
    if any(needs) or (needs_residual and activated):
        given = dy, x, stats, var, weight, bias, ctx.eps, list(needs), residual
        grads = list(differentiable_backward(*given, ctx.activation, ctx.negative_slope))
    if not activated:
        grads[3] = dy
    wanted = *needs, needs_residual
    return [grad if want else None for grad, want in zip(grads, wanted, strict=True)]


def gradients_of_forward(ctx, dy, _):
    """By its arguments."""
    needs = ctx.needs_input_grad
    dx, dweight, dbias, dresidual = _gradients(ctx, dy, needs[:3], needs[4])
    return dx, dweight, dbias, None, dresidual, None, None


def gradients_of_normalize(ctx, dy):
    """By its arguments."""
    needs = ctx.needs_input_grad
    dx, dweight, dbias, dresidual = _gradients(ctx, dy, (needs[0], *needs[3:5]), needs[6])
    return dx, None, None, dweight, dbias, None, dresidual, None, None


def after_backward(ctx, inputs, output) -> None:
    """Keep what `second_gradients` reads."""
    dy, x, stats, var, weight, _, eps, needs, residual, activation, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(dy, x, stats, var, weight)
    ctx.eps, ctx.needs = eps, needs
    ctx.plain = residual is None and activation is None


def second_gradients(ctx, ddx, ddweight, ddbias, _):
    """By the arguments of `backward`."""
    if not ctx.plain:
        raise NotImplementedError(TWICE)
    refuse_tangents(ddx, ddweight, ddbias)
    given = zip((ddx, ddweight, ddbias), ctx.needs, strict=True)
    seconds = [grad if need else None for grad, need in given]
    if all(grad is None for grad in seconds):
        return (None,) * 11
    *kept, weight = ctx.saved_tensors
    ddy, dx, dweight = differentiable_double_backward(*kept, weight, ctx.eps, *seconds)
    return ddy, dx, None, None, None if weight is None else dweight, *(None,) * 6


def third_gradients(ctx, *grads):
    """There are none."""
    raise NotImplementedError(THRICE)


_transforms = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


def _differentiable(operator: Any, gradients: Callable, after: Callable) -> Callable:
    """An operator with derivatives, also in `torch.func`, which does not see those of operators."""
    operator.register_autograd(gradients, setup_context=after)
    members = {
        "forward": staticmethod(lambda *inputs: operator(*inputs)),
        "setup_context": staticmethod(after),
        "backward": staticmethod(gradients),
        "generate_vmap_rule": True,
    }
    function: Any = type(f"{operator._name}_function", (torch.autograd.Function,), members)

    def call(*inputs):
        if not torch.compiler.is_compiling() and _transforms():
            return function.apply(*inputs)
        return operator(*inputs)

    return call


differentiable_forward = _differentiable(forward, gradients_of_forward, after_forward)
differentiable_normalize = _differentiable(normalize, gradients_of_normalize, after_normalize)
differentiable_backward = _differentiable(backward, second_gradients, after_backward)
differentiable_double_backward = _differentiable(
    double_backward, third_gradients, lambda ctx, inputs, output: None
)
