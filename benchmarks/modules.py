"""What fastbn's modules take in PyTorch: `python -m benchmarks.modules`.

    python -m benchmarks.modules --part small large networks --seconds 0.5 --threads 2
    python -m benchmarks.modules --part networks --compile    # torch.compile, too: minutes
    python -m benchmarks.modules --markdown

Least times of calls that take turns in one process, after a check that they give the same.

- small: a module call on a small batch, in microseconds, beside torch.nn.BatchNorm2d's; `more` is
  the difference, of which 40 are wanted at most. `function` is fastbn's call of the arrays.
- large: a module call and its backward pass on the shapes of ResNet-50. Ratios are others' times
  over the module's, below 1 the other is faster: `fastbn.forward` and `backward` of the same
  memory (0.85 is wanted at least), the same and a `torch.autograd.Function` that does nothing,
  which no adapter in Python can be faster than, and torch.nn.BatchNorm2d.
- networks: a training step of ResNet-18 and of a level of a U-Net (see networks.py). `adds` is what
  batch norm adds to the step of the same network without any; of a fused one it can be less than
  nothing, since its ReLUs and additions are in that, too.
"""

import argparse
from contextlib import suppress
from functools import partial
from itertools import product
from math import nan

import numpy as np

import fastbn

from . import networks, report
from .cases import LAYOUTS, SHAPES
from .compare import set_threads
from .libraries import EPS
from .measure import in_turn, quietly

with suppress(ImportError):  # asv imports every file here
    import torch

SMALL = (4, 8, 6, 6), (8, 64, 14, 14)
TOLERANCE = 1e-3  # of the largest value of a result


def module(library, channels):
    """fastbn's module, or PyTorch's, eager or compiled."""
    if library == "fastbn":
        from fastbn.adapters.torch import BatchNorm2d

        return BatchNorm2d(channels, eps=EPS)
    return networks.made(torch.nn.BatchNorm2d(channels, eps=EPS), library)


def modules(channels):
    """{name: module}, fastbn's first."""
    return {"module": module("fastbn", channels), "torch.nn": module("eager", channels)}


def image(shape, layout="channels_first", seed=0):
    """A batch of normal values."""
    torch.manual_seed(seed)
    last = layout == "channels_last"
    return torch.randn(shape).to(
        memory_format=torch.channels_last if last else torch.contiguous_format
    )


def forward(module, x, grad):
    """A call of a module."""
    with torch.set_grad_enabled(grad):
        return (module(x).detach(),)


def step(module, x, dy):
    """A call of a module, and its backward pass."""
    y = module(x)
    return y.detach(), *torch.autograd.grad(y, (x, module.weight, module.bias), dy)


class Nothing(torch.autograd.Function if "torch" in globals() else object):
    """What a Function costs that does nothing: its gradients are its inputs."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(weight, bias)
        return x

    @staticmethod
    def backward(ctx, dy):
        return dy, *ctx.saved_tensors


def nothing(x, weight, bias, dy):
    """A call of `Nothing`, and its backward pass."""
    torch.autograd.grad(Nothing.apply(x, weight, bias), (x, weight, bias), dy)


def small(shapes=SMALL):
    """(row, {name: call}) of a module call."""
    for shape, training, grad in product(shapes, (True, False), (False, True)):
        x, kinds = image(shape), modules(shape[1])
        calls = {}
        for name, module in kinds.items():
            calls[name] = partial(forward, module.train(training), x, grad)
        values, weight, bias = x.numpy(), *(np.full(shape[1], k, np.float32) for k in (1, 0))
        if training:
            calls["function"] = lambda given=(values, weight, bias): fastbn.forward(*given)[:1]
        else:
            given = values, np.zeros_like(weight), np.ones_like(weight), weight, bias
            calls["function"] = lambda given=given: (fastbn.batch_norm(*given),)
        modes = "training" if training else "evaluation", "grad" if grad else "no grad"
        yield ", ".join(["x".join(map(str, shape)), *modes]), calls


def large(shapes=SHAPES["resnet50"], layouts=LAYOUTS):
    """(row, {name: call}) of a module call and its backward pass."""
    for layout, shape in product(layouts, shapes):
        x, dy, kinds = image(shape, layout), image(shape, layout, 1), modules(shape[1])
        values, gradient = x.numpy(), dy.numpy()
        x.requires_grad_()
        module = kinds["module"]
        weight, bias = (p.detach().numpy() for p in (module.weight, module.bias))

        def function(given=(values, weight, bias), gradient=gradient):
            y, saved = fastbn.forward(*given, eps=EPS)
            return y, *fastbn.backward(gradient, saved)[:3]

        def floor(function=function, given=(x, module.weight, module.bias, dy)):
            result = function()
            nothing(*given)
            return result

        calls = {name: partial(step, module, x, dy) for name, module in kinds.items()}
        calls |= {"functions": function, "functions and Function": floor}
        yield f"{'x'.join(map(str, shape))}, {layout}", calls


def steps(names=tuple(networks.NETWORKS), sides=networks.SIDES):
    """(row, {name: call}) of a training step."""
    for name in names:
        yield name, {side: networks.step(name, side) for side in sides}


def check(row, calls):
    """Raise an AssertionError if results are not the first call's; each has run then."""
    first = None
    for name, call in calls.items():
        result = [np.asarray(part) for part in call()]
        first = first or result
        for want, got in zip(first, result, strict=True):
            error = np.max(np.abs(want - got)) / max(np.max(np.abs(want)), TOLERANCE)
            if not error <= TOLERANCE:
                raise AssertionError(f"{row}: {name} is off by {error:.1e}")


def timed(calls, seconds):
    """{name: seconds}, the least; NaN if the machine was too noisy."""
    times = quietly(lambda: in_turn({name: [call] for name, call in calls.items()}, seconds))
    return {name: times[name].least if times else nan for name in calls}


def of_small(row, times):
    """{row: cells}."""
    micros = {f"{name}, us": 1e6 * seconds for name, seconds in times.items()}
    return {row: micros | {"more, us": 1e6 * (times["module"] - times["torch.nn"])}}


def of_large(row, times):
    """{row: cells}."""
    ours = times["module"]
    others = ("functions", "functions and Function", "torch.nn")
    ratios = {f"{name}, ratio": times[name] / ours for name in others}
    return {row: {"module, us": 1e6 * ours} | ratios}


def of_steps(row, times):
    """{row: cells} of each side."""
    eager, bare = times["eager"], times["no batch norm"]
    return {
        f"{row}, {side}": {
            "step, ms": 1e3 * step,
            "of eager, ratio": step / eager,
            "adds, ms": 1e3 * (step - bare),
            "adds of eager's, ratio": (step - bare) / (eager - bare),
            "share, ratio": (step - bare) / step,
        }
        for side, step in times.items()
        if side != "no batch norm"
    }


PARTS = {"small": (small, of_small), "large": (large, of_large), "networks": (steps, of_steps)}
TITLES = {
    "small": "a module call on a small batch, least microseconds",
    "large": "a module call and its backward pass: others' least times over the module's",
    "networks": "a training step, least milliseconds",
}


def table(part, rows, seconds):
    """(title, frame of text) of a part; the mean and the least of ratios are below."""
    import pandas as pd

    found, cells = {}, PARTS[part][1]
    for row, calls in rows:
        check(row, {name: call for name, call in calls.items() if name != "no batch norm"})
        found |= cells(row, timed(calls, seconds))
    frame = pd.DataFrame(found).T
    texts = frame.map(lambda value: f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}")
    texts[frame.isna()] = "noisy"
    if part == "large":
        ratios = frame.filter(regex="ratio$")
        texts.loc["geometric mean"] = np.exp(np.log(ratios).mean()).map("{:.2f}".format)
        texts.loc["least"] = ratios.min().map("{:.2f}".format)
    texts.columns = [name.removesuffix(", ratio") for name in texts.columns]
    return TITLES[part], texts.fillna("").rename_axis("call")


def main():
    """Time the parts, and print their tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.modules",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--part", nargs="+", choices=PARTS, default=list(PARTS))
    add("--compile", action="store_true", help="networks under torch.compile, too")
    add("--seconds", type=float, default=0.5, help="a row: %(default)s")
    add("--threads", type=int, help="default: as many as fastbn takes")
    add("--markdown", action="store_true", help="print Markdown")
    options = parser.parse_args()
    set_threads(options.threads)
    sides = [side for side in networks.SIDES if options.compile or side != "compiled"]
    for part in options.part:
        rows = steps(sides=sides) if part == "networks" else PARTS[part][0]()
        title, cells = table(part, rows, options.seconds)
        print((report.markdown if options.markdown else report.text)(title, cells), flush=True)
    print(f"{report.machine()}.")


if __name__ == "__main__":
    main()
