"""What fastbn's modules take in PyTorch: `python -m benchmarks.modules`.

    python -m benchmarks.modules --part small large networks --seconds 0.5 --threads 2
    python -m benchmarks.modules --part networks --compile    # torch.compile, too: minutes
    python -m benchmarks.modules --markdown --readme FILE     # between its <!-- modules -->

Least times of calls that take turns in one process, after a check that they give the same.

- small: a module call on a small batch, in microseconds, beside torch.nn.BatchNorm2d's; `more` is
  the difference, of which 40 are wanted at most. `function` is `fastbn.batch_norm` of the same
  memory.
- large: a module call and its backward pass on the shapes of ResNet-50. Ratios are others' times
  over the module's, below 1 the other is faster: `fastbn.forward` and `backward` of the same memory
  (0.85 is wanted at least); these and a `torch.autograd.Function` that does nothing, which no
  adapter in Python is faster than; and torch.nn.BatchNorm2d.
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

from . import networks, report
from .cases import LAYOUTS, SHAPES, Case, Data
from .in_torch import made, tensors
from .libraries import installed, prepared, set_threads
from .measure import in_turn, quietly

Function = object
with suppress(ImportError):  # asv imports every file here
    import torch
    from torch.autograd import Function

SMALL = (4, 8, 6, 6), (8, 64, 14, 14)
TOLERANCE = 1e-3  # of the largest value of a result


def forward(module, x, grad):
    """A call of a module."""
    with torch.set_grad_enabled(grad):
        return (module(x).detach(),)


class Nothing(Function):
    """What a Function costs that does nothing: its gradients are its inputs."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(weight, bias)
        return x

    @staticmethod
    def backward(ctx, dy):
        return dy, *ctx.saved_tensors


def small(shapes=SMALL):
    """(row, {name: call}) of a module call."""
    from fastbn.adapters import torch as adapter

    for shape, training, grad in product(shapes, (True, False), (False, True)):
        d = Data(Case("module", shape))
        (x,) = tensors(d.x)
        calls = {
            name: partial(forward, made(d, namespace).train(training), x, grad)
            for name, namespace in {"module": adapter, "torch.nn": torch.nn}.items()
        }
        function = prepared("fastbn", "training" if training else "evaluation", d)
        calls["function"] = lambda function=function: function()[:1]
        modes = "training" if training else "evaluation", "grad" if grad else "no grad"
        yield ", ".join(["x".join(map(str, shape)), *modes]), calls


def large(shapes=SHAPES["resnet50"], layouts=LAYOUTS):
    """(row, {name: call}) of a module call and its backward pass."""
    for layout, shape in product(layouts, shapes):
        d = Data(Case("module", shape), layout)
        calls = {
            "module": prepared("fastbn", "module_step", d),
            "functions": prepared("fastbn", "step", d),
            "torch.nn": prepared("PyTorch", "module_step", d),
        }
        calls["functions and Function"] = with_function(calls["functions"], d)
        yield f"{'x'.join(map(str, shape))}, {layout}", calls


def with_function(function, d):
    """A call of the function, and one of `Nothing` with its backward pass."""
    dy, *inputs = tensors(d.dy, d.x, d.weight, d.bias)
    for tensor in inputs:
        tensor.requires_grad_()

    def call():
        result = function()
        torch.autograd.grad(Nothing.apply(*inputs), inputs, dy)
        return result

    return call


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
    add("--readme", metavar="FILE", help="put Markdown between its marks <!-- modules -->")
    options = parser.parse_args()
    if "PyTorch" not in installed():
        parser.error("PyTorch should be installed: pip install 'fastbn[torch]'")
    set_threads(options.threads)
    sides = [side for side in networks.SIDES if options.compile or side != "compiled"]
    markdown = []
    for part in options.part:
        rows = steps(sides=sides) if part == "networks" else PARTS[part][0]()
        title, cells = table(part, rows, options.seconds)
        markdown.append(report.markdown(title, cells))
        print(markdown[-1] if options.markdown else report.text(title, cells), flush=True)
    caption = f"Calls took turns in one process. {report.machine()}."
    print(caption)
    if options.readme:
        report.replace(options.readme, "modules", "\n\n".join([*markdown, caption]))


if __name__ == "__main__":
    main()
