"""What torch_resnet.py shows of its networks: a table, a figure and a few sentences."""

import numpy as np
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

SIDES = EAGER, CONVERTED, FUSED = "PyTorch", "converted", "fused"
KINDS = NORM, ADD, RELU = "batch norm", "sum", "ReLU"
COLOURS = {NORM: "#0072B2", ADD: "#56B4E9", RELU: "#E69F00", "all else": "#BBBBBB"}
EQUAL = 0.02  # of a time: differences below this are not told apart


def milliseconds(side):
    """The median of a network's steps."""
    return 1e3 * float(np.median(side.seconds))


def ratio(sides, name):
    """A network's step as a multiple of PyTorch's: the median over batches."""
    ours, theirs = (np.array(sides[k].seconds) for k in (name, EAGER))
    return float(np.median(ours / theirs))


def operations(side):
    """Milliseconds of a step that each operation takes."""
    return {kind: share * milliseconds(side) for kind, share in side.shares.items()}


def difference(ours, theirs):
    """The largest difference of losses, as a share of them, in the steps that both have."""
    ours, theirs = (np.array(losses[: min(len(ours), len(theirs))]) for losses in (ours, theirs))
    return float(np.max(np.abs(ours - theirs) / theirs))


def table(sides):
    """One row per network; losses are those of float64."""
    steps = len(sides[EAGER].seconds)
    title = f"A ResNet on handwritten digits: milliseconds of a step, medians of {steps}"
    result = Table(title=title, box=SIMPLE_HEAD)
    result.add_column("network", no_wrap=True)
    for heading in ("step", "ratio", *KINDS, "share", "losses off"):
        result.add_column(heading, justify="right")
    for name, side in sides.items():
        result.add_row(
            name,
            f"{milliseconds(side):.1f}",
            f"{ratio(sides, name):.2f}",
            *(f"{time:.1f}" for time in operations(side).values()),
            f"{sum(side.shares.values()):.0%}",
            f"{difference(side.exact, sides[EAGER].exact):.0e}" if name != EAGER else "",
        )
    return result


def draw(sides, path):
    """Save a picture: what a step is made of, and the losses on top of each other."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    bars, curves = figure.subplots(1, 2, width_ratios=(3, 2))
    left, steps = np.zeros(len(sides)), np.array([milliseconds(side) for side in sides.values()])
    parts = {k: np.array([operations(side)[k] for side in sides.values()]) for k in KINDS}
    parts["all else"] = steps - sum(parts.values())
    for kind, values in parts.items():
        bars.barh(list(sides), values, left=left, color=COLOURS[kind], label=kind)
        left += values
    for name, step in zip(sides, steps, strict=True):
        bars.text(step, name, f" {step:.0f} ms", va="center")
    bars.invert_yaxis()
    bars.set(title="a training step", xlabel="milliseconds", xlim=(0, 1.15 * max(steps)))
    bars.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, frameon=False)
    for (name, side), width, style in zip(sides.items(), (4, 2, 1), ("-", "--", ":"), strict=True):
        curves.plot(side.losses, style, linewidth=width, label=name)
    curves.set(title="losses, float32", xlabel="step", ylabel="loss")
    curves.locator_params(axis="x", integer=True)
    curves.legend(frameon=False)
    figure.savefig(path, dpi=130)


def compared(value):
    """A ratio of times to PyTorch's in words."""
    if abs(value - 1) < EQUAL:
        return "takes as long as PyTorch's"
    if value > 1:
        return f"takes {value:.2f} times as long as PyTorch's: no gain"
    return f"takes {value:.2f} of PyTorch's time"


def sentences(sides):
    """What the figures say, whichever way they come out."""
    times = {name: operations(side) for name, side in sides.items()}
    norm = times[CONVERTED][NORM] / times[EAGER][NORM]
    whole = sum(times[FUSED].values()) / sum(times[EAGER].values())
    few, others, eager = len(sides[EAGER].exact), (CONVERTED, FUSED), sides[EAGER]
    double = max(difference(sides[name].exact, eager.exact) for name in others)
    single = max(difference(sides[name].losses[:few], eager.losses) for name in others)
    apart = [np.subtract(sides[name].losses, sides[EAGER].losses) for name in others]
    return [
        f"A step of the converted network {compared(ratio(sides, CONVERTED))}; its batch norms, "
        f"{norm:.2f} of what PyTorch's take.",
        f"A step of the fused network {compared(ratio(sides, FUSED))}; its batch norms, sums "
        f"and ReLUs, {whole:.2f} of what PyTorch's take.",
        f"In {few} steps, losses are PyTorch's to {double:.0e} of their value in float64 and to "
        f"{single:.0e} in float32; in all {len(apart[0])}, up to {np.max(np.abs(apart)):.1g} lies "
        "between them: training enlarges what the last bits differ by.",
    ]
