"""PyTorch's calls under `torch.compile`. See libraries.py for what the functions return.

Each case is compiled for its own shape, which needs a C++ compiler.
"""

from contextlib import suppress
from functools import partial

from .in_torch import NO_RUNNING, made, module_call, module_steps, output, stepped, tensors
from .libraries import EPS, MOMENTUM

with suppress(ImportError):  # asv imports every file here
    import torch


def forward(d):
    """`torch.nn.functional.batch_norm` in training mode."""
    return _compiled(_batch_norm, *tensors(d.x), None, None, *tensors(d.weight, d.bias), True)


def evaluation(d):
    """`torch.nn.functional.batch_norm` with running statistics."""
    arrays = d.x, d.running_mean, d.running_var, d.weight, d.bias
    return _compiled(_batch_norm, *tensors(*arrays), False)


def training(d):
    """`torch.nn.functional.batch_norm`, which moves the running statistics in place."""
    running = tensors(d.running_mean.copy(), d.running_var.copy())
    x, weight, bias = tensors(d.x, d.weight, d.bias)
    call = _compiled(_batch_norm, x, *running, weight, bias, True)
    return lambda: (*call(), running[0])


def backward(d):
    """The formula in tensor operations, fused; the operator is called as it is."""
    dy, x, weight, bias = tensors(d.dy, d.x, d.weight, d.bias)
    saved = torch.native_batch_norm(x, weight, bias, *NO_RUNNING)[1:]
    return _compiled(_gradients, dy, x, weight, *saved)


def step(d, relu=False, residual=False, weighted=False):
    """What eager PyTorch calls, compiled: the operations forward, and those of autograd."""
    return stepped(_compiled(output), d, relu, residual, weighted)


def module(d):
    """A call of `torch.nn`'s module."""
    return module_call(d, compiled(made(d, torch.nn)))


def module_step(d):
    """`module`, and what autograd makes of it."""
    return module_steps(d, compiled(made(d, torch.nn)))


def statistics(d):
    """`torch.var_mean`."""
    return _compiled(_statistics, *tensors(d.x))


def _batch_norm(x, mean, var, weight, bias, training):
    return (torch.nn.functional.batch_norm(x, mean, var, weight, bias, training, MOMENTUM, EPS),)


def _gradients(dy, x, weight, mean, invstd):
    axes = [axis for axis in range(x.ndim) if axis != 1]
    n = x.numel() / x.shape[1]

    def wide(values):
        return values.view(1, -1, *[1] * (x.ndim - 2))

    centred = x - wide(mean)
    dbias, products = dy.sum(axes), (dy * centred).sum(axes)
    slope = products / n * invstd * invstd
    dx = (dy - wide(dbias / n) - centred * wide(slope)) * wide(weight * invstd)
    return dx, products * invstd, dbias


def _statistics(x):
    var, mean = torch.var_mean(x, [axis for axis in range(x.ndim) if axis != 1], correction=0)
    return mean, var


def _compiled(function, *arguments):
    """The function with these arguments, compiled when it is first called."""
    return partial(compiled(function), *arguments)


def compiled(function):
    """A function or a module, compiled for the shapes of its first call."""
    torch.compiler.reset()  # a ninth shape of one function would be left uncompiled
    torch._inductor.config.compile_threads = 1  # leaves no idle workers beside what is timed
    return torch.compile(function, dynamic=False)
