"""What train_digits.py shows of its runs: two tables, a figure and a few sentences."""

from math import inf

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, ScalarFormatter
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

COLOURS = {True: "#0072B2", False: "#D55E00"}  # told apart with any kind of colour vision
PASSES = "forward", "backward"
LABELS = {True: "with batch norm", False: "without batch norm"}


def bar(console):
    """A progress bar: what is being done, how much of it is done, and since when."""
    text = TextColumn("{task.description}")
    return Progress(text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console)


def steps_text(steps, limit):
    """A number of steps, or that the target was not reached."""
    return f"never in {limit}" if steps == inf else str(steps)


def training_table(best, limit, target):
    """One row per network, weight scale and side, at its best learning rate."""
    table = Table(title="Deep networks on handwritten digits", box=SIMPLE_HEAD)
    for heading in ("network", "weight scale", "batch norm", "learning rate"):
        table.add_column(heading, justify="right" if " " in heading else "left")
    table.add_column(f"steps to {target:.0%}", justify="right", no_wrap=True)
    for heading in ("final accuracy", "time per step"):
        table.add_column(heading, justify="right")
    for (network, scale, batch_norm), run in best.items():
        table.add_row(
            network,
            f"{scale:g}",
            "yes" if batch_norm else "no",
            f"{run.learning_rate:g}",
            steps_text(run.steps_to_target, limit),
            f"{run.accuracy[-1]:.1%}",
            f"{1e3 * run.seconds_per_step:.2f} ms",
            style="bold" if batch_norm else "",
            end_section=batch_norm,
        )
    return table


def timing_table(times, width):
    """Microseconds of plain NumPy and of fastbn, and their ratio."""
    table = Table(title="Batch norm alone, µs a call", box=SIMPLE_HEAD)
    for heading in ("batch", "pass", "NumPy", "fastbn", "ratio"):
        table.add_column(heading, justify="left" if heading == "pass" else "right")
    for rows, seconds in times.items():
        for step in PASSES:
            numpy, fast = (1e6 * seconds[name, step] for name in ("NumPy", "fastbn"))
            shape = f"{rows} x {width}"
            table.add_row(shape, step, f"{numpy:.1f}", f"{fast:.1f}", f"{numpy / fast:.1f}x")
    return table


def draw(runs, best, target, path):
    """Save the curves: a row per network, a column per weight scale."""
    networks, scales, _ = (list(dict.fromkeys(values)) for values in zip(*best, strict=True))
    size = max(2.5 * len(scales) + 0.6, 9), 2.4 * len(networks) + 1.2  # 9: the legend's width
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(networks), len(scales), sharex=True, sharey=True, squeeze=False)
    for row, network in zip(axes, networks, strict=True):
        for axis, scale in zip(row, scales, strict=True):
            panel = [run for run in runs if (run.network, run.weight_scale) == (network, scale)]
            draw_panel(axis, panel, best.values(), target)
            axis.set_title(f"{network}, weight scale {scale:g}", fontsize=10)
        row[0].set_ylabel("test accuracy")
    for axis in axes[-1]:
        axis.set_xlabel("training step")
    add_legend(figure, target)
    figure.savefig(path, dpi=130)


def draw_panel(axis, runs, best, target):
    """The curve of each side at its best learning rate, and faintly those at the others."""
    axis.axhline(target, color="0.6", linewidth=0.8, linestyle=":")
    for run in runs:
        style = {"linewidth": 2.2, "zorder": 3} if run in best else {"linewidth": 0.7, "alpha": 0.3}
        axis.plot(run.steps, run.accuracy, color=COLOURS[run.batch_norm], **style)
        if run.overflowed:
            axis.plot(run.steps[-1], run.accuracy[-1], "x", color=COLOURS[run.batch_norm], **style)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(0, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.spines[["top", "right"]].set_visible(False)


def add_legend(figure, target):
    """One legend for all panels, above them."""
    lines = [Line2D([], [], color=COLOURS[side], linewidth=2.2) for side in LABELS]
    lines += [Line2D([], [], color="0.4", linewidth=0.7, alpha=0.6)]
    lines += [Line2D([], [], color="0.4", linestyle="", marker="x")]
    lines += [Line2D([], [], color="0.6", linewidth=0.8, linestyle=":")]
    labels = [*LABELS.values(), "at other learning rates", "loss overflowed", f"{target:.0%}"]
    figure.legend(lines, labels, loc="outside upper center", ncols=len(lines), frameon=False)


def summary(best, rates, limit, target, times):
    """Sentences that say what was shown, with the measured figures."""
    yield (
        f"Each line of the first table is the best of {len(rates)} learning rates "
        f"({min(rates):g} to {max(rates):g}), searched alike with and without batch norm."
    )
    for network in dict.fromkeys(name for name, _, _ in best):
        with_norm, without = (
            [run for key, run in best.items() if key[0] == network and key[2] == side]
            for side in (True, False)
        )
        yield f"{network} network, with batch norm: {scales_reached(with_norm, target)}."
        yield f"{network} network, without it: {scales_reached(without, target)}."
        contest = best_against_best(with_norm, without, limit)
        yield f"{network} network, best against best: {contest}."
    ratios = [s["NumPy", step] / s["fastbn", step] for s in times.values() for step in PASSES]
    yield (
        f"Batch norm alone, on the batches of this run: fastbn is {min(ratios):.1f} to "
        f"{max(ratios):.1f} times as fast as plain NumPy."
    )


def scales_reached(runs, target):
    """From how many weight scales the target was reached, and in how many steps."""
    steps = [run.steps_to_target for run in runs if run.steps_to_target < inf]
    text = f"{target:.0%} from {len(steps)} of {len(runs)} weight scales"
    return f"{text}, in {min(steps)} to {max(steps)} steps" if steps else text


def best_against_best(with_norm, without, limit):
    """The quickest run of each side, whatever its weight scale."""
    fast, slow = (min(runs, key=lambda run: run.steps_to_target) for runs in (with_norm, without))
    text = " against ".join(steps_text(run.steps_to_target, limit) for run in (fast, slow))
    if inf in (fast.steps_to_target, slow.steps_to_target):
        return f"{text} steps"
    seconds = [run.steps_to_target * run.seconds_per_step for run in (fast, slow)]
    return (
        f"{text} steps, {slow.steps_to_target / fast.steps_to_target:.1f} times as many; "
        f"{1e3 * seconds[0]:.0f} against {1e3 * seconds[1]:.0f} ms of training"
    )
