"""Batches of the operators' calls, for `torch.vmap`: the channels of all are those of one call."""

import torch
from torch import Tensor
from torch.library import register_vmap

from . import _operators as ops


def _values(x: Tensor | None, dim: int | None, batch: int) -> Tensor | None:
    """Inputs (N, C, ...) of a batch as one of (N, batch * C, ...)."""
    if x is None:
        return None
    if dim is None:
        x, dim = x.unsqueeze(0).expand(batch, *x.shape), 0
    return x.movedim(dim, 1).flatten(1, 2)


def _vector(v: Tensor | None, dim: int | None, batch: int) -> Tensor | None:
    """Vectors (C,) of a batch as one of (batch * C,)."""
    if v is None:
        return None
    return v.repeat(batch) if dim is None else v.movedim(dim, 0).flatten()


def _statistics(stats: Tensor, dim: int | None, batch: int) -> Tensor:
    """What `Stats.to_array` gave, each of as many values, as that of all channels."""
    if dim is None:
        stats, dim = stats.unsqueeze(0).expand(batch, -1), 0
    stats = stats.movedim(dim, 0)
    rows = stats[:, 2:].unflatten(1, (4, -1)).movedim(1, 0)
    return torch.cat([stats[0, :2], rows.flatten()])


def _given(stats: Tensor, var: Tensor | None, dims, batch: int) -> tuple[Tensor, Tensor | None]:
    if var is None:
        return _statistics(stats, dims[0], batch), None
    return _vector(stats, dims[0], batch), _vector(var, dims[1], batch)


def _apart(batch: int, folded: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple]:
    """Outputs of one call as those of the batch, and their axis of it; empty ones are nobody's."""
    dims = tuple(None if out.shape == (0,) else int(out.dim() > 1) for out in folded)
    pairs = zip(folded, dims, strict=True)
    apart = (out if dim is None else out.unflatten(dim, (batch, -1)) for out, dim in pairs)
    return tuple(apart), dims


@register_vmap(ops.forward)
def _(info, dims, x, weight, bias, eps, residual, activation, negative_slope):
    batch = info.batch_size
    given = (
        _values(x, dims[0], batch),
        _vector(weight, dims[1], batch),
        _vector(bias, dims[2], batch),
    )
    y, stats = ops.forward(
        *given, eps, _values(residual, dims[4], batch), activation, negative_slope
    )
    rows = stats[2:].unflatten(0, (4, batch, -1)).movedim(1, 0).flatten(1)
    each = torch.cat([stats[:2].expand(batch, 2), rows], dim=1)
    return (y.unflatten(1, (batch, -1)), each), (1, 0)


@register_vmap(ops.normalize)
def _(info, dims, x, stats, var, weight, bias, eps, residual, activation, negative_slope):
    batch = info.batch_size
    y = ops.normalize(
        _values(x, dims[0], batch),
        *_given(stats, var, dims[1:3], batch),
        _vector(weight, dims[3], batch),
        _vector(bias, dims[4], batch),
        eps,
        _values(residual, dims[6], batch),
        activation,
        negative_slope,
    )
    return y.unflatten(1, (batch, -1)), 1


@register_vmap(ops.backward)
def _(info, dims, dy, x, stats, var, weight, bias, eps, needs, residual, activation, slope):
    batch = info.batch_size
    grads = ops.backward(
        _values(dy, dims[0], batch),
        _values(x, dims[1], batch),
        *_given(stats, var, dims[2:4], batch),
        _vector(weight, dims[4], batch),
        _vector(bias, dims[5], batch),
        eps,
        needs,
        _values(residual, dims[8], batch),
        activation,
        slope,
    )
    return _apart(batch, grads)


@register_vmap(ops.double_backward)
def _(info, dims, dy, x, stats, var, weight, eps, ddx, ddweight, ddbias):
    batch = info.batch_size
    seconds = ops.double_backward(
        _values(dy, dims[0], batch),
        _values(x, dims[1], batch),
        *_given(stats, var, dims[2:4], batch),
        _vector(weight, dims[4], batch),
        eps,
        _values(ddx, dims[6], batch),
        _vector(ddweight, dims[7], batch),
        _vector(ddbias, dims[8], batch),
    )
    return _apart(batch, seconds)


@register_vmap(ops.update_running_stats)
def _(info, dims, running_mean, running_var, stats, momentum, count):
    if dims[0] is None or dims[1] is None:
        raise RuntimeError(
            "vmap: running_mean and running_var should have a batch axis, or else all of the batch "
            "would move one: see torch.func.stack_module_state; or track_running_stats=False"
        )
    tensors = running_mean, running_var, stats, count
    for i in range(info.batch_size):
        mean, var, mine, counted = (
            t if dim is None else t.select(dim, i)
            for t, dim in zip(tensors, (*dims[:3], dims[4]), strict=True)
        )
        ops.update_running_stats(mean, var, mine, momentum, counted)
    return None, None
