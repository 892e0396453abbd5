"""PyTorch's calls, eager. See libraries.py for what the functions return."""

from .libraries import EPS, MOMENTUM

NO_RUNNING = None, None, True, MOMENTUM, EPS


def forward(d):
    """The operator beneath `torch.nn.functional.batch_norm`, in training mode."""
    import torch

    arguments = *tensors(d.x, d.weight, d.bias), *NO_RUNNING
    return lambda: torch.native_batch_norm(*arguments)[:1]


def backward(d):
    """The operator that autograd calls."""
    import torch

    dy, x, weight, bias = tensors(d.dy, d.x, d.weight, d.bias)
    saved = torch.native_batch_norm(x, weight, bias, *NO_RUNNING)[1:]
    arguments = dy, x, weight, None, None, *saved, True, EPS, [True] * 3
    return lambda: torch.ops.aten.native_batch_norm_backward(*arguments)


def evaluation(d):
    """`torch.nn.functional.batch_norm` with running statistics."""
    import torch

    arguments = *tensors(d.x, d.running_mean, d.running_var, d.weight, d.bias), False, MOMENTUM, EPS
    return lambda: (torch.nn.functional.batch_norm(*arguments),)


def training(d):
    """`torch.nn.functional.batch_norm`, which moves the running statistics in place."""
    import torch

    running = tensors(d.running_mean.copy(), d.running_var.copy())
    x, weight, bias = tensors(d.x, d.weight, d.bias)
    arguments = x, *running, weight, bias, True, MOMENTUM, EPS
    return lambda: (torch.nn.functional.batch_norm(*arguments), running[0])


def statistics(d):
    """The statistics pass alone; `torch.var_mean` is 2 to 20 times as slow."""
    import torch

    (x,) = tensors(d.x)
    return lambda: torch.batch_norm_update_stats(x, None, None, MOMENTUM)


def forward_out(d):
    """`forward` into a given tensor."""
    return _out(d, *tensors(d.x, d.weight, d.bias), *NO_RUNNING)


# its overload with out= computes new tensors and copies them: 4.1 ms where this takes 2.9
backward_out = backward


def evaluation_out(d):
    """The operator beneath `evaluation` into a given tensor."""
    x, weight, bias, *running = tensors(d.x, d.weight, d.bias, d.running_mean, d.running_var)
    return _out(d, x, weight, bias, *running, False, MOMENTUM, EPS)


def training_out(d):
    """The operator beneath `training` into a given tensor."""
    running = tensors(d.running_mean.copy(), d.running_var.copy())
    call = _out(d, *tensors(d.x, d.weight, d.bias), *running, True, MOMENTUM, EPS)
    return lambda: (*call(), running[0])


def tensors(*values):
    """The same memory, seen by PyTorch: strides of channels-last memory are its memory format."""
    import torch

    return [torch.from_numpy(value) for value in values]


def _out(d, *arguments):
    import torch

    batch_norm = torch.ops.aten.native_batch_norm.out
    mean, invstd = torch.empty(0), torch.empty(0)  # the first call gives them their size
    (out,) = tensors(d.empty())
    return lambda: batch_norm(*arguments, out=out, save_mean=mean, save_invstd=invstd)[:1]
