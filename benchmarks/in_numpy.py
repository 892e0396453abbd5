"""The seed's calls: a textbook's NumPy. See libraries.py for what the functions return."""

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


def statistics(d):
    """The two reductions that NumPy has."""
    x, axes = d.x, (0, *range(2, d.x.ndim))
    return lambda: (x.mean(axes), x.var(axes))


def _parameters(d, mode):
    running = {"running_mean": d.running_mean, "running_var": d.running_var}
    return {"mode": mode, "eps": EPS, "momentum": 1 - MOMENTUM, **running}
