"""Passes over tensors: what `fastbn` computes, with tensors' memory in its hands.

``stats`` are what fastbn takes: `Stats`, or a mean and a variance as arrays. An epilogue is a
residual, an activation and its slope. Gradients that nobody needs are None.
"""

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastbn

from ._tensors import array, dense, tensor

PLAIN = None, None, 0.0  # the epilogue that is none
_AS_IT_IS = nullcontext()


def team():
    """PyTorch's number of threads, unless fastbn was given one."""
    threads = torch.get_num_threads()
    if threads >= fastbn.get_num_threads():
        return _AS_IT_IS  # in a third of the time
    return fastbn.threads(threads, default=True)


def _options(residual: Tensor | None, activation: str | None, slope: float) -> dict[str, Any]:
    """An epilogue by fastbn's names."""
    if activation is None and residual is None:
        return {}
    return {"residual": array(residual), "activation": activation, "negative_slope": slope}


def forward(x, stats, weight, bias, eps, *epilogue) -> tuple[Tensor, fastbn.Saved]:
    """Output, and what a backward pass needs; without ``stats`` by those of the batch."""
    given, options = (dense(x), array(weight), array(bias)), _options(*epilogue)
    with team():
        y, saved = fastbn.forward(*given, eps=eps, stats=stats, **options)
    return tensor(y, x), saved


def normalize(x, stats, weight, bias, eps, *epilogue) -> Tensor:
    """Output with fixed statistics."""
    given, options = (dense(x), stats, array(weight), array(bias)), _options(*epilogue)
    with team():
        y = fastbn.normalize(*given, eps=eps, **options)
    return tensor(y, x)


def saved_of(x, stats, weight, bias, eps, fixed, *epilogue) -> fastbn.Saved:
    """What a forward pass saved; ``fixed``: statistics are constants."""
    given = dense(x), stats, array(weight), array(bias)
    return fastbn.Saved.of(*given, eps=eps, fixed=fixed, **_options(*epilogue))


def backward(dy, x, saved, weight, bias, needs) -> list[Tensor | None]:
    """Gradients of x, weight, bias and residual."""
    given = array(dy)
    with team():
        dx, dweight, dbias, dresidual = fastbn.backward(given, saved, needs=needs)
    return [
        None if dx is None else tensor(dx, x),
        None if dweight is None else _parameters(dweight, weight, x),
        None if dbias is None else _parameters(dbias, bias, x),
        None if dresidual is None else tensor(dresidual, x),
    ]


def double_backward(dy, x, saved, weight, ddx, ddweight, ddbias) -> list[Tensor]:
    """Gradients of what `backward` gives: of dy, x and weight."""
    ddx = torch.zeros_like(x) if ddx is None else ddx
    with team():
        given = array(dy), saved, array(ddx), array(ddweight), array(ddbias)
        ddy, dx, dweight = fastbn.double_backward(*given)
    return [tensor(ddy, x), tensor(dx, x), _parameters(dweight, weight, x)]


def update_running_stats(running_mean, running_var, stats, momentum, count) -> None:
    """Move running statistics; without a momentum they are averages over ``count`` batches."""
    if momentum is None:
        momentum = 0.0 if count is None else 1.0 / float(count)
    fastbn.update_running_stats(array(running_mean), array(running_var), stats, momentum)


def kind(parameter: Tensor | None, x: Tensor) -> torch.dtype:
    """The dtype of a parameter's gradient."""
    return x.dtype if parameter is None else parameter.dtype


def _parameters(grad: np.ndarray, parameter: Tensor | None, x: Tensor) -> Tensor:
    """The gradient of a parameter, in its dtype."""
    made, wanted = tensor(grad), kind(parameter, x)
    return made if made.dtype is wanted else made.to(wanted)
