"""PyTorch's calls, eager. See libraries.py for what the functions return."""

from contextlib import suppress

import numpy as np

from .libraries import EPS, MOMENTUM

with suppress(ImportError):  # asv imports every file here
    import torch

NO_RUNNING = None, None, True, MOMENTUM, EPS


def forward(d, out=None):
    """The operator beneath `torch.nn.functional.batch_norm`, in training mode."""
    arguments = *tensors(d.x, d.weight, d.bias), *NO_RUNNING
    if out is not None:
        return _native(arguments, out)
    return lambda: torch.native_batch_norm(*arguments)[:1]


def backward(d, out=None):
    """The operator that autograd calls, which allocates its output even where `out` is given.

    Its overload with out= computes new tensors and copies them: 3.3 ms for 2.2 on the gradients of
    (32, 64, 56, 56) (PyTorch 2.13, two threads of an AMD EPYC, November 2026).
    """
    dy, x, weight, bias = tensors(d.dy, d.x, d.weight, d.bias)
    saved = torch.native_batch_norm(x, weight, bias, *NO_RUNNING)[1:]
    arguments = dy, x, weight, None, None, *saved, True, EPS, [True] * 3
    return lambda: torch.ops.aten.native_batch_norm_backward(*arguments)


def evaluation(d, out=None):
    """`torch.nn.functional.batch_norm` with running statistics, or the operator beneath it."""
    x, weight, bias, *running = tensors(d.x, d.weight, d.bias, d.running_mean, d.running_var)
    if out is not None:
        return _native((x, weight, bias, *running, False, MOMENTUM, EPS), out)
    arguments = x, *running, weight, bias, False, MOMENTUM, EPS
    return lambda: (torch.nn.functional.batch_norm(*arguments),)


def training(d, out=None):
    """`evaluation` with the batch's statistics, which move the running ones in place."""
    running = tensors(d.running_mean.copy(), d.running_var.copy())
    x, weight, bias = tensors(d.x, d.weight, d.bias)
    if out is not None:
        call = _native((x, weight, bias, *running, True, MOMENTUM, EPS), out)
        return lambda: (*call(), running[0])
    arguments = x, *running, weight, bias, True, MOMENTUM, EPS
    return lambda: (torch.nn.functional.batch_norm(*arguments), running[0])


def step(d, relu=False, residual=False, weighted=False):
    """`output`, and what autograd makes of it."""
    return stepped(output, d, relu, residual, weighted)


def stepped(function, d, relu, residual, weighted):
    """The call of a step, whose forward pass is the function: `output`, compiled or not."""
    dy, *inputs = tensors(d.dy, d.x, d.weight, d.bias, *([d.residual] if residual else []))
    (mask,) = tensors(d.mask) if weighted else (None,)
    for tensor in inputs:
        tensor.requires_grad_()

    def call():
        y = function(mask, relu, *inputs)
        return y.detach(), *torch.autograd.grad(y, inputs, dy)

    return call


def module(d):
    """A call of `torch.nn`'s module in training; its weight takes gradients."""
    return module_call(d, made(d, torch.nn))


def module_step(d):
    """`module`, and what autograd makes of it."""
    return module_steps(d, made(d, torch.nn))


def made(d, namespace):
    """The module of a namespace for this data."""
    kind = getattr(namespace, f"BatchNorm{max(len(d.case.shape) - 2, 1)}d")
    weight, *_ = values = tensors(d.weight, d.bias, d.running_mean, d.running_var)
    module = kind(len(weight), eps=EPS, momentum=MOMENTUM, dtype=weight.dtype)
    names = "weight", "bias", "running_mean", "running_var"
    module.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    return module


def module_call(d, module):
    """A call of a module, compiled or not."""
    (x,) = tensors(d.x)
    return lambda: (module(x).detach(), module.running_mean)


def module_steps(d, module):
    """A call of a module, and its gradients."""
    dy, x = tensors(d.dy, d.x)
    inputs = x.requires_grad_(), module.weight, module.bias

    def call():
        y = module(x)
        return y.detach(), *torch.autograd.grad(y, inputs, dy)

    return call


def output(mask, relu, x, weight, bias, residual=None):
    """A batch norm, an addition and a ReLU as torchvision's ResNet has them, the latter in place.

    PyTorch has no weighted batch norm: with a mask, it is the formula in tensor operations.
    """
    if mask is None:
        y = torch.nn.functional.batch_norm(x, None, None, weight, bias, *NO_RUNNING[2:])
    else:
        y = _weighted(mask, x, weight, bias)
    if residual is not None:
        y += residual
    return torch.nn.functional.relu(y, inplace=True) if relu else y


def _weighted(mask, x, weight, bias):
    """Positions take part in the statistics by their share of the mask; 16 bits as float32."""
    axes, wide = (0, *range(2, x.ndim)), (1, -1, *[1] * (x.ndim - 2))
    values = x.to(weight.dtype)
    share = (mask / mask.sum(dtype=weight.dtype)).unsqueeze(1)
    centred = values - (share * values).sum(axes, keepdim=True)
    invstd = torch.rsqrt((share * centred.square()).sum(axes, keepdim=True) + EPS)
    return (centred * (invstd * weight.view(wide)) + bias.view(wide)).to(x.dtype)


def statistics(d):
    """The statistics pass alone.

    `torch.var_mean` takes 4 to 43 times as long on (32, 64, 56, 56), (32, 512, 7, 7) and
    (4096, 256) (PyTorch 2.13, two threads of an AMD EPYC, November 2026).
    """
    (x,) = tensors(d.x)
    return lambda: torch.batch_norm_update_stats(x, None, None, MOMENTUM)


def tensors(*values):
    """The same memory, seen by PyTorch: strides of channels-last memory are its memory format."""
    return [
        torch.from_numpy(value.view(np.uint16)).view(torch.bfloat16)
        if value.dtype.name == "bfloat16"  # which it does not take from NumPy
        else torch.from_numpy(value)
        for value in values
    ]


def _native(arguments, out):
    """A call of the operator into a given array."""
    batch_norm = torch.ops.aten.native_batch_norm.out
    mean, invstd = torch.empty(0), torch.empty(0)  # the first call gives them their size
    (out,) = tensors(out)
    return lambda: batch_norm(*arguments, out=out, save_mean=mean, save_invstd=invstd)[:1]
