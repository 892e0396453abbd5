"""How each library does each operation: the table OPERATIONS[operation][library].

An entry takes a `cases.Data` and returns the call to be timed, whose result is a tuple of arrays
or tensors, the same ones in every library. Everything that is not the operation itself, such as
the forward pass before a backward one, is done before the call is returned. A library is imported
when one of its entries is used, so any of them may be missing.
"""

from importlib.util import find_spec

import numpy as np

from . import seed

EPS = 1e-5
MODULES = {"fastbn": "fastbn", "NumPy": "numpy", "PyTorch": "torch"}


def fastbn_forward(d):
    """The batch normalised with its own statistics."""
    import fastbn

    x, weight, bias = d.x, d.weight, d.bias
    return lambda: fastbn.forward(x, weight, bias, eps=EPS)[:1]


def fastbn_backward(d):
    """Gradients with respect to x, weight and bias."""
    import fastbn

    dy, saved = d.dy, fastbn.forward(d.x, d.weight, d.bias, eps=EPS)[1]
    return lambda: fastbn.backward(dy, saved)[:3]


def fastbn_evaluation(d):
    """The batch normalised with running statistics."""
    import fastbn

    arguments = d.x, d.running_mean, d.running_var, d.weight, d.bias
    return lambda: (fastbn.batch_norm(*arguments, eps=EPS),)


def fastbn_statistics(d):
    """Mean and population variance of each channel."""
    import fastbn

    x = d.x

    def call():
        stats = fastbn.batch_stats(x)
        return stats.mean, stats.var()

    return call


def numpy_forward(d):
    """The seed's code in training mode."""
    arguments = d.x, d.weight, d.bias, {"mode": "train", "eps": EPS}
    return lambda: seed.forward(*arguments)[:1]


def numpy_backward(d):
    """The seed's code: the chain rule, array by array."""
    dy, cache = d.dy, seed.forward(d.x, d.weight, d.bias, {"mode": "train", "eps": EPS})[1]
    return lambda: seed.backward(dy, cache)


def numpy_evaluation(d):
    """The seed's code in test mode."""
    running = {"running_mean": d.running_mean, "running_var": d.running_var}
    arguments = d.x, d.weight, d.bias, {"mode": "test", "eps": EPS, **running}
    return lambda: seed.forward(*arguments)[:1]


def numpy_statistics(d):
    """The two reductions that NumPy has."""
    x, axes = d.x, (0, *range(2, d.x.ndim))
    return lambda: (x.mean(axes), x.var(axes))


def torch_forward(d):
    """The operator beneath `torch.nn.functional.batch_norm`, in training mode."""
    import torch

    x, weight, bias = _tensors(d.x, d.weight, d.bias)
    return lambda: torch.native_batch_norm(x, weight, bias, None, None, True, 0.1, EPS)[:1]


def torch_backward(d):
    """The operator that autograd calls."""
    import torch

    dy, x, weight, bias = _tensors(d.dy, d.x, d.weight, d.bias)
    saved = torch.native_batch_norm(x, weight, bias, None, None, True, 0.1, EPS)[1:]
    arguments = dy, x, weight, None, None, *saved, True, EPS, [True] * 3
    return lambda: torch.ops.aten.native_batch_norm_backward(*arguments)


def torch_evaluation(d):
    """`torch.nn.functional.batch_norm` with running statistics."""
    import torch

    arguments = _tensors(d.x, d.running_mean, d.running_var, d.weight, d.bias)
    return lambda: (torch.nn.functional.batch_norm(*arguments, False, 0.1, EPS),)


def torch_statistics(d):
    """The statistics pass alone; `torch.var_mean` is 2 to 20 times as slow."""
    import torch

    (x,) = _tensors(d.x)
    return lambda: torch.batch_norm_update_stats(x, None, None, 0.1)


OPERATIONS = {
    "forward": {"fastbn": fastbn_forward, "NumPy": numpy_forward, "PyTorch": torch_forward},
    "backward": {"fastbn": fastbn_backward, "NumPy": numpy_backward, "PyTorch": torch_backward},
    "evaluation": {
        "fastbn": fastbn_evaluation,
        "NumPy": numpy_evaluation,
        "PyTorch": torch_evaluation,
    },
    "statistics": {
        "fastbn": fastbn_statistics,
        "NumPy": numpy_statistics,
        "PyTorch": torch_statistics,
    },
}


def installed():
    """The libraries of the table that can be imported here."""
    return [library for library, module in MODULES.items() if find_spec(module)]


def arrays(result):
    """The arrays of a call's result, whatever the library."""
    return [np.asarray(part) for part in result]


def _tensors(*values):
    """The same memory, seen by PyTorch: strides of channels-last memory are its memory format."""
    import torch

    return [torch.from_numpy(value) for value in values]
