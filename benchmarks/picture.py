"""The picture of a comparison: how many times as long as the memory floor each library takes."""

import numpy as np

from . import report
from .floor import NAMES
from .libraries import FILES
from .look import COLOURS, multiples

BAR = 0.085  # inches
FLOOR, BOUND = NAMES


def draw(times, path):
    """A panel for each table: operations beneath each other, layouts side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = {}
    for (operation, given, layout, dtype), of in times.dropna().groupby(report.JOBS, sort=False):
        seconds, row = report.wide(of), f"{report.kind(operation, given)}, {dtype}"
        panels[row, layout] = seconds.div(seconds[FLOOR], axis=0)
    rows, layouts = (list(dict.fromkeys(names)) for names in zip(*panels, strict=True))
    room = {row: max(len(panel) for (at, _), panel in panels.items() if at == row) for row in rows}
    found = [name for name in FILES if any(name in panel for panel in panels.values())]
    heights = [room[row] * (len(found) + 1) * BAR + 0.8 for row in rows]
    figure, axes = plt.subplots(
        len(rows),
        len(layouts),
        figsize=(7 * len(layouts), sum(heights) + 0.4),
        height_ratios=heights,
        squeeze=False,
        sharex=True,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set_visible(False)
    handles = {}
    for (row, layout), panel in panels.items():
        axis = axes[rows.index(row), layouts.index(layout)]
        _panel(axis, panel, len(found))
        axis.set(title=f"{row}, {layout}", ylim=(room[row] - 0.5, -0.5))
        handles |= {handle.get_label(): handle for handle in axis.get_legend_handles_labels()[0]}
    figure.legend(
        handles=handles.values(), loc="outside upper center", ncols=len(handles), frameon=False
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axis, panel, libraries):
    """Bars of one table, the first case at the top, and marks at the other bound."""
    bars, centres = panel.drop(columns=list(NAMES), errors="ignore"), np.arange(len(panel))
    width = 1 / (libraries + 1)
    for k, (name, ratios) in enumerate(bars.items()):
        places = centres + (k - (bars.shape[1] - 1) / 2) * width
        axis.barh(places, ratios, width, color=COLOURS[name], label=name)
    axis.axvline(1, color="black", linewidth=0.8, label="memory floor, one pass")
    if BOUND in panel:
        mark = {"markersize": 72 * BAR * bars.shape[1], "markeredgewidth": 1.5}
        bound = "memory floor, two passes"
        axis.plot(panel[BOUND], centres, "k|", label=bound, **mark)
    axis.set(visible=True, xlabel="times as long as the floor")
    multiples(axis)
    axis.tick_params(labelbottom=True)
    axis.set_yticks(centres, bars.index, fontsize=8)
