"""The seed's calls: a textbook's NumPy. See libraries.py for what the functions return."""

import numpy as np

from . import seed
from .libraries import EPS, MOMENTUM


def forward(d):
    """Training mode, without a look at the running statistics that it keeps."""
    call = training(d)
    return lambda: call()[:1]


def backward(d):
    """The chain rule, array by array."""
    dy, cache = d.dy, seed.forward(d.x, d.weight, d.bias, {"mode": "train", "eps": EPS})[1]
    return lambda: seed.backward(dy, cache)


def evaluation(d):
    """Test mode."""
    arguments = d.x, d.weight, d.bias, _parameters(d, "test")
    return lambda: seed.forward(*arguments)[:1]


def training(d):
    """Training mode; new running arrays in the dictionary at each call."""
    x, weight, bias, parameters = d.x, d.weight, d.bias, _parameters(d, "train")
    return lambda: (seed.forward(x, weight, bias, parameters)[0], parameters["running_mean"])


def step(d, relu=False, residual=False, weighted=False):
    """`forward` and `backward`, with array expressions for what the seed has not."""
    x, dy, weight, bias, parameters = d.x, d.dy, d.weight, d.bias, _parameters(d, "train")
    if weighted:
        return lambda: _weighted(x, dy, d.mask, weight, bias)

    def call():
        y, cache = seed.forward(x, weight, bias, parameters)
        y = y + d.residual if residual else y
        dz = dy * (y > 0) if relu else dy
        gradients = *seed.backward(dz, cache), *([dz] if residual else [])
        return np.maximum(y, 0) if relu else y, *gradients

    return call


def statistics(d):
    """The two reductions that NumPy has."""
    x, axes = d.x, (0, *range(2, d.x.ndim))
    return lambda: (x.mean(axes), x.var(axes))


def _parameters(d, mode):
    running = {"running_mean": d.running_mean, "running_var": d.running_var}
    return {"mode": mode, "eps": EPS, "momentum": 1 - MOMENTUM, **running}


def _weighted(x, dy, mask, weight, bias):
    """A step in which positions take part in the statistics by their share of the mask."""
    axes, wide = (0, *range(2, x.ndim)), (1, -1, *[1] * (x.ndim - 2))
    weight, bias = weight.reshape(wide), bias.reshape(wide)
    share = (mask / mask.sum(dtype=x.dtype))[:, None]
    centred = x - (share * x).sum(axes, keepdims=True)
    invstd = 1 / np.sqrt((share * centred**2).sum(axes, keepdims=True) + EPS)
    xhat = centred * invstd
    dweight, dbias = ((dy * by).sum(axes, keepdims=True) for by in (xhat, 1))
    dx = weight * invstd * (dy - share * (dbias + xhat * dweight))
    return xhat * weight + bias, dx, dweight.ravel(), dbias.ravel()
