"""fastbn's calls. See libraries.py for what the functions return."""

import fastbn

from . import in_torch
from .libraries import EPS, MOMENTUM


def forward(d, out=None):
    """The batch normalised with its own statistics."""
    x, weight, bias = d.x, d.weight, d.bias
    return lambda: fastbn.forward(x, weight, bias, eps=EPS, out=out)[:1]


def backward(d, out=None):
    """Gradients with respect to x, weight and bias."""
    dy, saved = d.dy, fastbn.forward(d.x, d.weight, d.bias, eps=EPS)[1]
    return lambda: fastbn.backward(dy, saved, out=out)[:3]


def evaluation(d, out=None):
    """The batch normalised with running statistics."""
    arguments = d.x, d.running_mean, d.running_var, d.weight, d.bias
    return lambda: (fastbn.batch_norm(*arguments, eps=EPS, out=out),)


def training(d, out=None):
    """The batch normalised with its own statistics, which move the running ones."""
    running = d.running_mean.copy(), d.running_var.copy()
    arguments = d.x, *running, d.weight, d.bias, True, MOMENTUM, EPS
    return lambda: (fastbn.batch_norm(*arguments, out=out), running[0])


def step(d, relu=False, residual=False, weighted=False):
    """One call forward, one call backward."""
    x, dy, weight, bias, options = d.x, d.dy, d.weight, d.bias, {"eps": EPS}
    options |= {"activation": "relu"} if relu else {}
    options |= {"residual": d.residual} if residual else {}
    options |= {"weights": d.mask} if weighted else {}

    def call():
        y, saved = fastbn.forward(x, weight, bias, **options)
        return y, *fastbn.backward(dy, saved)[: 4 if residual else 3]

    return call


def module(d):
    """A call of the module that takes the place of PyTorch's."""
    from fastbn.adapters import torch

    return in_torch.module_call(d, in_torch.made(d, torch))


def module_step(d):
    """`module`, and what autograd makes of it."""
    from fastbn.adapters import torch

    return in_torch.module_steps(d, in_torch.made(d, torch))


def statistics(d):
    """Mean and population variance of each channel."""
    x = d.x

    def call():
        stats = fastbn.batch_stats(x)
        return stats.mean, stats.var()

    return call
