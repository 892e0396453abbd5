"""What small calls cost: the seed interface, layers and statistics against the functional calls.

`python -m benchmarks.small_calls` prints a table of ratios, of minima of calls that take turns. No
more than 1.4 is wanted, and of PyTorch's time no more than 1.
"""

from importlib.util import find_spec

import fastbn

from . import in_torch
from .cases import DTYPES, Case, Data
from .measure import in_turn

SHAPES = (8, 16), (100, 100), (64, 100), (4, 8, 6, 6)


def functional(d):
    """The two calls that the others are held against."""
    x, dy, weight, bias = d.x, d.dy, d.weight, d.bias
    saved = fastbn.forward(x, weight, bias)[1]
    return {
        "forward": lambda: fastbn.forward(x, weight, bias),
        "backward": lambda: fastbn.backward(dy, saved),
    }


def seeded(d):
    """The seed interface, with a dict that has been through a train call."""
    spatial = "spatial_" if d.x.ndim == 4 else ""
    forward = getattr(fastbn, f"{spatial}batchnorm_forward")
    backward = getattr(fastbn, f"{spatial}batchnorm_backward")
    x, dy, weight, bias, train = d.x, d.dy, d.weight, d.bias, {"mode": "train"}
    cache = forward(x, weight, bias, train)[1]
    test = {**train, "mode": "test"}
    return {
        f"{spatial}batchnorm_forward, train": (lambda: forward(x, weight, bias, train), "forward"),
        f"{spatial}batchnorm_forward, test": (lambda: forward(x, weight, bias, test), "normalize"),
        f"{spatial}batchnorm_backward": (lambda: backward(dy, cache), "backward"),
    }


def others(d):
    """Functions with statistics, and layers."""
    x, dy, weight, bias = d.x, d.dy, d.weight, d.bias
    mean, var = d.running_mean.copy(), d.running_var.copy()
    stats = fastbn.batch_stats(x)
    trained, evaluated, called = (fastbn.BatchNorm(x.shape[1], dtype=x.dtype) for _ in range(3))
    evaluated.eval()
    called(x)
    training = x, mean, var, weight, bias, True
    return {
        "normalize": (lambda: fastbn.normalize(x, stats, weight, bias), "forward"),
        "batch_norm, training": (lambda: fastbn.batch_norm(*training), "forward"),
        "batch_norm, evaluation": (
            lambda: fastbn.batch_norm(x, mean, var, weight, bias),
            "forward",
        ),
        "batch_stats": (lambda: fastbn.batch_stats(x), "forward"),
        "layer, training": (lambda: trained(x), "forward"),
        "layer, evaluation": (lambda: evaluated(x), "forward"),
        "layer, backward": (lambda: called.backward(dy), "backward"),
    }


def ratios(shape, dtype, seconds=1.0):
    """{name: (seconds, ratio)} of each call to the functional call that it is held against."""
    d = Data(Case("small", shape), "channels_first", dtype)
    held = {name: (call, name) for name, call in functional(d).items()} | others(d) | seeded(d)
    return _compared(held, seconds)


def to_torch(shape, dtype, seconds=1.0):
    """The same of a channels-last view to PyTorch's call of the same memory, on one thread.

    PyTorch starts its threads for any number of values, and waits for the last.
    """
    d = Data(Case("small", shape), "channels_last", dtype)
    held = {}
    for name, call in functional(d).items():
        held[f"{name}, PyTorch"] = getattr(in_torch, name)(d), f"{name}, PyTorch"
        held[name] = call, f"{name}, PyTorch"
    threads = in_torch.torch.get_num_threads()
    in_torch.torch.set_num_threads(1)
    try:
        return _compared(held, seconds)
    finally:
        in_torch.torch.set_num_threads(threads)


def _compared(held, seconds):
    times = in_turn({name: [call] for name, (call, _) in held.items()}, seconds)
    return {
        name: (times[name].least, times[name].least / times[to].least)
        for name, (_, to) in held.items()
    }


def main():
    """Print the tables."""
    for shape in SHAPES:
        for dtype in DTYPES:
            _print(f"{shape} {dtype}", ratios(shape, dtype))
    if find_spec("torch"):
        for dtype in DTYPES:
            _print(f"channels-last (4, 8, 6, 6) {dtype}", to_torch((4, 8, 6, 6), dtype))


def _print(title, found):
    print(f"\n{title}")
    for name, (seconds, ratio) in found.items():
        print(f"  {name:36} {seconds * 1e6:8.2f} us {ratio:6.2f}")


if __name__ == "__main__":
    main()
