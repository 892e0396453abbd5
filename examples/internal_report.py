"""What internal_shift.py found: two tables, a picture, and sentences derived from them."""

from itertools import product
from math import inf

import numpy as np
from digits_report import COLOURS
from internal_shift import NOISY, WITH, WITHOUT
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator, PercentFormatter
from rich.box import SIMPLE_HEAD
from rich.table import Table

SIDES = {WITHOUT: (COLOURS[False], "-"), WITH: (COLOURS[True], "-"), NOISY: ("#009E73", "--")}
WIDTHS = {"layer 2": 0.9, "layer 3": 1.7, "layer 5": 2.8}  # of the lines of the layers drawn
MEASURES = {"scores": "the shift of a layer's sums", "angles": "the turn of a layer's gradient"}
EARLY, TARGET = 50, 0.9  # steps; accuracy
SANTURKAR = "Santurkar et al. (2018, How Does Batch Normalization Help Optimization?)"


def tables(groups):
    """One of the shift of the layers' sums, one of the turn of their gradients."""
    title = "Shift of a layer's sums in one step (medians, times a million)"
    yield table(title, groups, "scores", score_text)
    title = "How far the layers below turn a layer's gradient in one step (medians, degrees)"
    yield table(title, groups, "angles", "{:.1f}".format)


def score_text(score):
    """A score in millionths."""
    return rounded(1e6 * score)


def rounded(value):
    """Two digits, however large: 0.012, 1.2, 12,000."""
    return f"{float(f'{value:.2g}'):,.10g}"


def grouped(runs):
    """{(network, side): its runs}, in the order of the runs."""
    groups = {}
    for run in runs:
        groups.setdefault((run.network, run.side), []).append(run)
    return groups


def networks_of(groups):
    """The networks, each once."""
    return list(dict.fromkeys(network for network, _ in groups))


def steps_and_values(group, values):
    """Steps, and the median of the runs: (steps, layers)."""
    steps = np.arange(1, len(group[0].scores) + 1) if values == "scores" else group[0].looks
    return np.asarray(steps), np.median([getattr(run, values) for run in group], axis=0)


def phases(group, values):
    """{phase: the median over its steps, of each layer}."""
    steps, figures = steps_and_values(group, values)
    last = len(group[0].scores)
    early, late = min(EARLY, last // 4), last // 2
    parts = {f"first {early} steps": steps <= early, f"last {late} steps": steps > last - late}
    return {phase: np.median(figures[part], axis=0) for phase, part in parts.items()}


def layer_names(figures, values):
    """Names of the layers that a quantity is measured in."""
    first = 1 if values == "scores" else 2
    return [f"layer {first + i}" for i in range(len(figures))]


def table(title, groups, values, form):
    """Rows: network, phase and side; columns: layers."""
    result = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    by_phase = {key: phases(group, values) for key, group in groups.items()}
    some = next(iter(by_phase.values()))
    result.add_column("network, steps", no_wrap=True)
    result.add_column("batch norm")
    for heading in layer_names(next(iter(some.values())), values):
        result.add_column(heading, justify="right")
    for network, phase in product(networks_of(groups), some):
        for side, text in ((WITHOUT, "no"), (WITH, "yes"), (NOISY, "noisy")):
            figures = map(form, by_phase[network, side][phase])
            where = f"{network}, {phase.removesuffix(' steps')}" if side == WITHOUT else ""
            result.add_row(where, text, *figures, end_section=side == NOISY)
    return result


def sentences(groups):
    """What the two measures say of batch norm, network by network, and of the usual story."""
    for network in networks_of(groups):
        yield learning(network, groups)
    places = {}
    for network, values in product(networks_of(groups), MEASURES):
        sentence, lower, count = comparison(network, groups, values)
        places.setdefault(values, []).append((lower, count))
        yield sentence
    noisy = {network: noise_result(network, groups) for network in networks_of(groups)}
    for network, (ratio, soon, late) in noisy.items():
        yield (
            f"{network} network, noise behind its batch norms: early on its sums above layer 1 "
            f"shift {times(ratio)} than without batch norm; steps to {TARGET:.0%}: "
            f"{steps_text(soon)}, without batch norm {steps_text(late)}."
        )
    yield from verdict(places, noisy)


def steps_to_target(group):
    """The median of the runs' first looks with TARGET accuracy on the test scans."""
    firsts = [
        next((s for s, a in zip(run.looks, run.accuracy, strict=True) if a >= TARGET), inf)
        for run in group
    ]
    return sorted(firsts)[len(firsts) // 2]


def steps_text(steps):
    """A number of steps, or that the run had too few."""
    return "never" if steps == inf else str(steps)


def times(ratio):
    """A ratio as `times more` or `times less`."""
    return f"{rounded(ratio)} times more" if ratio >= 1 else f"{rounded(1 / ratio)} times less"


def mean_ratio(a, b):
    """Geometric mean over layers."""
    return float(np.exp(np.mean(np.log(np.maximum(a, 1e-300) / np.maximum(b, 1e-300)))))


def listed(items):
    """Words with commas, and `and` before the last."""
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last


def learning(network, groups):
    """How fast and how far each side learnt."""
    words = []
    for side in SIDES:
        group = groups[network, side]
        final = np.median([run.accuracy[-1] for run in group])
        words.append(f"{side} {steps_text(steps_to_target(group))} and {final:.1%}")
    return (
        f"{network} network, steps to {TARGET:.0%} of the test scans, and accuracy at the end: "
        f"{'; '.join(words)}."
    )


def comparison(network, groups, values):
    """Where batch norm lowers a measure, in words; in how many places, and of how many."""
    sides = {side: phases(groups[network, side], values) for side in (WITH, WITHOUT)}
    words, lower, count = [], 0, 0
    for phase, figures in sides[WITH].items():
        without, names = sides[WITHOUT][phase], layer_names(figures, values)
        up = [layer for layer, a, b in zip(names, figures, without, strict=True) if a >= b]
        everywhere = "all layers" if len(up) == len(names) else listed(up or ["no layer"])
        ratio = times(mean_ratio(figures, without))
        words.append(f"{ratio} in the {phase} (more in {everywhere})")
        lower, count = lower + len(names) - len(up), count + len(names)
    return f"{network} network with batch norm, {MEASURES[values]}: {listed(words)}.", lower, count


def noise_result(network, groups):
    """Shift of the noisy side to that without batch norm, early on above layer 1; their steps."""
    noisy, without = (groups[network, side] for side in (NOISY, WITHOUT))
    a, b = (next(iter(phases(group, "scores").values()))[1:] for group in (noisy, without))
    return mean_ratio(a, b), steps_to_target(noisy), steps_to_target(without)


def verdict(places, noisy):
    """How this bears on the story that batch norm trains faster because it lowers the shift."""
    lower = {values: np.sum(pairs, axis=0) for values, pairs in places.items()}
    counts = [f"{MEASURES[values]} in {a} of {b} places" for values, (a, b) in lower.items()]
    yield f"Batch norm lowers {listed(counts)} (a layer, early or late, of one of the networks)."
    against = []
    if any(a < b for a, b in lower.values()):
        against.append("it does not lower both of these everywhere")
    if names := [n for n, (ratio, soon, late) in noisy.items() if ratio > 1 and soon < late]:
        learn = "networks learn" if len(names) > 1 else "network learns"
        against.append(
            f"with noise that shifts more than the lack of batch norm does, the {listed(names)} "
            f"{learn} sooner than without batch norm"
        )
    if against:
        yield (
            "These figures do not bear out the usual story, that batch norm trains faster because "
            f"it lowers internal covariate shift (Ioffe & Szegedy 2015): {'; '.join(against)}. "
            f"{SANTURKAR} found the like, and that batch norm makes the loss smoother."
        )
    else:
        yield (
            "The figures of this run fit the story of Ioffe & Szegedy (2015), that batch norm "
            f"trains faster because it lowers internal covariate shift. {SANTURKAR} found networks "
            "that do not fit it."
        )


def draw(groups, path):
    """Save a column per network: shift of sums, turn of gradients, accuracy, step by step."""
    networks = networks_of(groups)
    figure = Figure(figsize=(8.8, 8.4), layout="constrained")
    rows = figure.subplots(3, len(networks), sharex=True, sharey="row", height_ratios=(2, 2, 1.3))
    figure.suptitle("Internal covariate shift: what one training step does to the layers")
    for column, network in zip(rows.T, networks, strict=True):
        for side, style in SIDES.items():
            draw_training(column, groups[network, side], *style)
        rate = groups[network, WITH][0].learning_rate
        column[0].set_title(f"{network} network, learning rate {rate:g}", fontsize=11)
        column[-1].set_xlabel("training step")
    dress(rows)
    add_legend(figure)
    figure.savefig(path, dpi=130)


def draw_training(axes, group, colour, line):
    """The lines of one side in the three panels of a network."""
    for axis, values in zip(axes, MEASURES, strict=False):
        steps, figures = steps_and_values(group, values)
        names = layer_names(figures[0], values)
        for layer, width in WIDTHS.items():
            points = binned(steps, figures[:, names.index(layer)])
            axis.plot(*points, line, color=colour, linewidth=width)
    axes[2].plot(*steps_and_values(group, "accuracy"), line, color=colour, linewidth=2)


def dress(rows):
    """Scales and labels, once all lines are there."""
    labels = (
        "shift of a layer's sums\nin one step",
        "turn of its gradient by\nthe layers below",
        "test accuracy",
    )
    for row, label in zip(rows, labels, strict=True):
        row[0].set_ylabel(label)
    rows[0, 0].set_yscale("log")
    rows[0, 0].set_xscale("log")
    rows[0, 0].xaxis.set_major_formatter("{x:g}")
    rows[1, 0].set_ylim(0, None)
    rows[1, 0].yaxis.set_major_locator(MultipleLocator(30))
    rows[1, 0].yaxis.set_major_formatter("{x:.0f}°")
    rows[2, 0].set_ylim(0, 1.03)
    rows[2, 0].yaxis.set_major_formatter(PercentFormatter(1))
    for axis in rows.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="0.92")


def binned(steps, values, bins=24):
    """Medians over stretches of steps that are of equal length on a logarithmic axis."""
    stretch = np.floor(np.log(steps) / np.log(steps[-1] + 1) * bins)
    parts = [stretch == s for s in np.unique(stretch)]
    return [steps[p].mean() for p in parts], [np.median(values[p]) for p in parts]


def add_legend(figure):
    """Colour and dashes for the side, width for the layer."""
    keys = {
        side: Line2D([], [], color=c, linestyle=s, linewidth=2) for side, (c, s) in SIDES.items()
    }
    keys |= {layer: Line2D([], [], color="0.3", linewidth=width) for layer, width in WIDTHS.items()}
    place = {"loc": "outside lower center", "ncols": len(keys), "frameon": False}
    figure.legend(keys.values(), keys, fontsize=9, **place)
