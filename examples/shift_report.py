"""What covariate_shift.py shows of spoilt scans: a table, a picture, and sentences from both."""

import numpy as np
from digits_data import CORRUPTIONS
from internal_report import listed
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from rich.box import SIMPLE_HEAD
from rich.table import Table

BEFORE, AFTER, NEUTRAL = "#D55E00", "#0072B2", "0.45"  # told apart with any kind of colour vision
SHADES = {BEFORE: ("#F2B27C", BEFORE, "#7A2E00"), AFTER: ("#8CC4E8", AFTER, "#00304F")}
MARKERS, GREYS = "os^", ("0.75", "0.5", "0.15")  # mild, stronger, strongest
REGAINED = 0.9  # share of the accuracy that was lost
UNCHANGED = 0.06  # twice the standard error of an accuracy near one half, of 297 scans


def strength_text(case):
    """How strongly a case is corrupted, in words."""
    return CORRUPTIONS[case.kind][-1].format(case.strength)


def name(case):
    """What was done to the scans, in words."""
    if case.kind not in CORRUPTIONS:
        return "as they are"
    return f"{case.kind} {strength_text(case)}"


def table(clean, tested):
    """A row per kind and strength: the score below and above, and the accuracies."""
    title = "Shift of spoilt test scans; accuracy before adapting, and after"
    result = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    result.add_column("test scans", no_wrap=True)
    last = f"layer {len(clean.infinite) - 1}"
    for heading in ("shift, layer 1", last, f"{last} adapted"):
        result.add_column(heading, justify="right")
    for heading in ("before", "adapted at once", "adapted in order"):
        result.add_column(heading, justify="right")
    for case in (clean, *tested):
        score, after = case.score["before"], case.score["in order"]
        result.add_row(
            name(case),
            *(f"{value:.2g}" for value in (score[1], score[-1], after[-1])),
            *(f"{value:.1%}" for value in case.accuracy.values()),
            end_section=case is clean or case.strength == CORRUPTIONS[case.kind][1][-1],
        )
    return result


def sentences(clean, tested, turned, networks, scans):
    """What adapting did, with the measured figures."""
    plural = "networks" if networks > 1 else "network"
    yield (
        f"Means of {networks} {plural} on {scans} scans: accuracies that differ by less than "
        f"{UNCHANGED:.0%} may do so by chance. The shift is the median of a layer's units."
    )
    pixels, *units = np.max([case.infinite for case in tested], axis=0)
    yield (
        f"Up to {pixels} of the 64 pixels, and {sum(units)} of the units, have an infinite shift: "
        "constant on one side, or on both at different values. The median ranks them last."
    )
    yield from regained_sentences(clean, tested)
    yield from hidden_sentences(clean, tested, turned)
    order = [case.accuracy["in order"] - case.accuracy["at once"] for case in (clean, *tested)]
    better = sum(gain > 0 for gain in order)
    yield (
        "Adapting the layers in order, each to what the adapted ones below give it, is better than "
        f"all at once in {better} of {len(order)} rows, by {np.mean(order):+.1%} in the mean; on "
        f"scans that nobody spoilt, {clean.accuracy['in order']:.1%} against "
        f"{clean.accuracy['at once']:.1%}, where not adapting gives {clean.accuracy['before']:.1%}."
    )


def gains(case):
    """Accuracy after adapting in order, less that before."""
    return case.accuracy["in order"] - case.accuracy["before"]


def regained_sentences(clean, tested):
    """Which cases adapting mends, helps, leaves and harms."""
    groups = {}
    for case in tested:
        lost = clean.accuracy["before"] - case.accuracy["before"]
        mended = lost > UNCHANGED and gains(case) >= REGAINED * lost
        kind = np.sign(gains(case)) * (abs(gains(case)) > UNCHANGED)
        groups.setdefault(2 if mended else int(kind), []).append(case)
    verdicts = {
        2: f"regains at least {REGAINED:.0%} of what was lost",
        1: "regains some of it",
        0: f"changes accuracy by at most {UNCHANGED:.0%}",
        -1: "makes it worse",
    }
    for key, verdict in verdicts.items():
        if key in groups:
            yield f"Adapting {verdict}: {listed([name(case) for case in groups[key]])}."


def hidden_sentences(clean, tested, turned):
    """Where the score is mended and the accuracy is not, and why."""
    hidden = [
        case
        for case in tested
        if gains(case) <= UNCHANGED < clean.accuracy["before"] - case.accuracy["before"]
        and case.score["in order"][-1] < case.score["before"][-1] / 3
    ]
    if hidden:
        yield (
            "The shift of the last layer falls to less than a third, and accuracy does not rise "
            f"with it: {listed([name(case) for case in hidden])}. The mean and variance of each "
            "unit fit again; what the units tell together does not."
        )
    negative = next(case for case in tested if case.kind == "inversion" and case.strength == 1)
    change = f"{negative.accuracy['in order']:.1%} to {turned:.1%}"
    if turned >= clean.accuracy["before"] - UNCHANGED:
        yield (
            "A negative turns the sign of every sum, which neither mean nor variance shows: with "
            f"the first batch norm's weight negated, accuracy goes from {change}."
        )
    else:
        yield f"Negating the first batch norm's weight takes accuracy on negatives from {change}."


def draw(clean, tested, scan, path):
    """Save a column per kind: a scan, the shift layer by layer, the accuracies."""
    kinds = list(CORRUPTIONS)
    figure = Figure(figsize=(10, 6.8), layout="constrained")
    rows = figure.subplots(3, len(kinds), sharey="row", height_ratios=(0.55, 2.2, 1.7))
    figure.suptitle("Covariate shift of spoilt test scans, before and after adapting batch norm")
    for (top, middle, bottom), kind in zip(rows.T, kinds, strict=True):
        cases = [case for case in tested if case.kind == kind]
        draw_scans(top, kind, scan)
        draw_scores(middle, clean, cases)
        draw_accuracies(bottom, clean, cases)
    rows[1, 0].set_ylabel("shift from training (median)")
    rows[2, 0].set_ylabel("test accuracy")
    add_legend(figure)
    figure.savefig(path, dpi=130)


def draw_scans(axis, kind, scan):
    """One scan as it is, and from mild to strong."""
    change, strengths, *_ = CORRUPTIONS[kind]
    scans = [scan, *(change(scan[None], strength)[0] for strength in strengths)]
    strip = np.full((8, 9 * len(scans) - 1), np.nan)
    for i, image in enumerate(scans):
        strip[:, 9 * i : 9 * i + 8] = image.reshape(8, 8)
    axis.imshow(strip, cmap="gray_r", vmin=0, vmax=1)
    axis.set_title(kind, fontsize=11)
    axis.set_axis_off()


def draw_scores(axis, clean, cases):
    """Lines over the layers: before in one colour, adapted in the other, darker if stronger."""
    layers = range(len(clean.score["before"]))
    axis.plot(layers, clean.score["before"], color=NEUTRAL, linestyle=":", linewidth=1.6)
    for when, colour, line in (("before", BEFORE, "-"), ("in order", AFTER, "--")):
        for case, shade, marker in zip(cases, SHADES[colour], MARKERS, strict=True):
            axis.plot(
                layers, case.score[when], line, color=shade, marker=marker, ms=5, linewidth=1.5
            )
    axis.set_yscale("log")
    axis.set_xticks(layers, ["pixels", *map(str, layers[1:])])
    axis.set_xlabel("input of batch norm in layer")
    axis.spines[["top", "right"]].set_visible(False)


def draw_accuracies(axis, clean, cases):
    """An arrow per strength, from before to adapted."""
    every = [clean, *cases]
    axis.axhline(clean.accuracy["before"], color=NEUTRAL, linestyle=":", linewidth=1.6)
    for i, case in enumerate(every):
        before, after = case.accuracy["before"], case.accuracy["in order"]
        axis.plot([i, i], [before, after], color="0.75", linewidth=3, zorder=1)
        axis.plot(i, case.accuracy["at once"], "x", color=NEUTRAL, ms=6, mew=1.6)
        axis.plot(i, before, "o", color=BEFORE, ms=10, mfc="none", mew=2)
        axis.plot(i, after, "D", color=AFTER, ms=5)
    labels = ["clean", *map(strength_text, cases)]
    axis.set_xticks(range(len(every)), labels)
    axis.set_xlabel(CORRUPTIONS[cases[0].kind][2])
    axis.set_xlim(-0.5, len(every) - 0.5)
    axis.set_ylim(-0.03, 1.05)
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.spines[["top", "right"]].set_visible(False)


def add_legend(figure):
    """What colours, lines and markers mean."""
    keys = {
        "not adapted": Line2D([], [], color=BEFORE, marker="o", mfc="none", mew=2),
        "adapted in order": Line2D([], [], color=AFTER, linestyle="--", marker="D", ms=5),
        "adapted all at once": Line2D([], [], color=NEUTRAL, linestyle="", marker="x"),
        "test scans as they are": Line2D([], [], color=NEUTRAL, linestyle=":"),
    }
    for text, marker, shade in zip(("mild", "stronger", "strongest"), MARKERS, GREYS, strict=True):
        keys[text] = Line2D([], [], color=shade, linestyle="", marker=marker)
    place = {"loc": "outside lower center", "ncols": len(keys), "frameon": False}
    figure.legend(keys.values(), keys, fontsize=9, columnspacing=1.2, **place)
