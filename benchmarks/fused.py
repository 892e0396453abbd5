"""What is fused into a pass, and what 16 bits save: `python -m benchmarks.fused`.

    python -m benchmarks.fused --part activation weights halves --seconds 0.5 --threads 2

Each row is one call of fastbn, its least time, and that time as a share of others' that took turns
with it: 1.05 of plain is a twentieth more than the same without it; below 1 of PyTorch is faster.

- activation: a step, forward and backward, with a ReLU and with a residual before it; a plain one;
  and the same step in PyTorch, eager and compiled. See libraries.py.
- weights: passes over positions that count or not, or count by a number; plain ones.
- halves: passes over 16 bits; over float32 of the same shape; in PyTorch, over the same 16 bits.
  Then with results that are subnormal, beside the ordinary ones.
"""

import argparse
from itertools import product

import numpy as np

import fastbn

from .cases import HALVES, LAYOUTS, Case, Data, missing
from .libraries import EPS, installed, prepared, set_threads
from .measure import in_turn, quietly
from .report import machine

PASSES = ("forward", "backward")
ACTIVATION = Case("activation", (32, 256, 56, 56))
WEIGHTS = {  # by length of runs; by channels, which may fill no vector
    "long runs": [
        (LAYOUTS[0], shape)
        for shape in ((32, 64, 56, 56), (32, 128, 1000), (32, 256, 14, 14), (64, 512, 7, 7))
    ],
    "short runs": [(LAYOUTS[0], (128, 256, side, side)) for side in (6, 5, 3, 2)],
    "channels last": [(LAYOUTS[1], (32, c, 56, 56)) for c in (3, 16, 64, 100, 256)],
}
SAMPLES = (2, 8, 32, 128, 512, 2048)  # of 32 KB in 16 bits: from 64 KB to 64 MB
SUBNORMAL = {"float16": 1e-6, "bfloat16": 1e-39}  # the weight, without a bias


def passes(data, **options):
    """{pass: call} of fastbn."""
    x, dy, weight, bias = data.x, data.dy, data.weight, data.bias
    _, saved = fastbn.forward(x, weight, bias, eps=EPS, **options)
    return {
        "forward": lambda: fastbn.forward(x, weight, bias, eps=EPS, **options),
        "backward": lambda: fastbn.backward(dy, saved),
    }


def theirs(operation, data, *libraries):
    """{library: call} of those that are installed."""
    return {k: prepared(k, operation, data) for k in libraries if k in installed()}


def activation(case=ACTIVATION, libraries=("PyTorch", "torch.compile")):
    """(group, data, {name: call}) of each row; the first call is the one in question."""
    for layout, step in product(case.layouts, ("step_relu", "step_residual_relu")):
        data = Data(case, layout)
        calls = {
            "fastbn": prepared("fastbn", step, data),
            "plain": prepared("fastbn", "step", data),
        }
        yield step, data, calls | theirs(step, data, *libraries)


def weights(shapes=WEIGHTS):
    """The rows of a mask and of real weights."""
    for runs, layout, shape in [(runs, *how) for runs, some in shapes.items() for how in some]:
        data = Data(Case("weights", shape), layout)
        reals = data.mask * np.random.default_rng(4).random(data.mask.shape, np.float32)
        plain = passes(data)
        for kind, values in {"mask": data.mask, "reals": reals}.items():
            weighted = passes(data, weights=values)
            for of in PASSES:
                calls = {"fastbn": weighted[of], "plain": plain[of]}
                yield f"{runs}, {kind}, {of}", data, calls


def halves(samples=SAMPLES):
    """The rows of both types of 16 bits."""
    for dtype, layout, n in product(HALVES, LAYOUTS, samples):
        if missing(dtype):
            continue
        case = Case("halves", (n, 64, 16, 16))
        data, small = Data(case, layout, dtype), Data(case, layout, dtype)
        small.weight[:], small.bias[:] = SUBNORMAL[dtype], 0
        half, single, subnormal = passes(data), passes(Data(case, layout)), passes(small)
        for of in PASSES:
            calls = {"fastbn": half[of], "float32": single[of], **theirs(of, data, "PyTorch")}
            yield of, data, calls
            calls = {"fastbn": subnormal[of], "ordinary": half[of], **theirs(of, small, "PyTorch")}
            yield f"{of}, subnormal", small, calls


PARTS = {"activation": activation, "weights": weights, "halves": halves}


def ratios(calls, seconds):
    """(seconds, {name: ratio}): the first call's least time, and as a share of each other's."""
    for call in calls.values():
        call()  # compiles
    times = quietly(lambda: in_turn({name: [call] for name, call in calls.items()}, seconds))
    if times is None:
        return None
    (_, first), *others = times.items()
    return first.least, {name: first.least / other.least for name, other in others}


def report(rows, seconds):
    """Print a line for each row; then for each group the mean and the largest of each ratio."""
    groups = {}
    for group, data, calls in rows:
        shape = "x".join(map(str, data.case.shape))
        row = f"{shape:15} {data.dtype!s:8} {data.layout:14} {data.x.nbytes >> 10:6} KB"
        found = ratios(calls, seconds)
        if found is None:
            print(f"{row}  {group:32} noisy", flush=True)
            continue
        shares = ", ".join(f"{ratio:.2f} of {name}" for name, ratio in found[1].items())
        print(f"{row}  {group:32}{1e6 * found[0]:10.1f} us  {shares}", flush=True)
        for other, ratio in found[1].items():
            groups.setdefault((f"{data.dtype}, {group}", other), []).append((ratio, row))
    for (group, other), some in groups.items():
        mean, (most, row) = np.exp(np.mean([np.log(ratio) for ratio, _ in some])), max(some)
        print(f"{group}: {mean:.2f} of {other}, at most {most:.2f}: {' '.join(row.split())}")


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fused",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=0.5, help="a row: %(default)s")
    parser.add_argument("--threads", type=int, help="default: as many as fastbn takes")
    options = parser.parse_args()
    set_threads(options.threads)
    for part in options.part:
        print(f"\n{part}")
        report(PARTS[part](), options.seconds)
    print(machine([k for k in ("fastbn", "PyTorch") if k in installed()]))


if __name__ == "__main__":
    main()
