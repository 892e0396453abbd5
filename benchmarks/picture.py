"""The picture of a comparison: how many times as long as the memory floor each library takes."""

from . import report
from .floor import NAMES
from .libraries import FILES

COLOURS = dict(zip(FILES, ("#c1272d", "#9aa0a6", "#1f77b4", "#7fb3d9", "#e6a23c"), strict=True))
BAR = 0.085  # inches
FLOOR, BOUND = NAMES


def draw(results, path):
    """A panel for each table: operations beneath each other, layouts side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    groups = report.by_table([result for result in results if result.times])
    rows = list(dict.fromkeys(_row(group) for group in groups))
    layouts = list(dict.fromkeys(group[0].job.layout for group in groups))
    longest = {row: max(len(group) for group in groups if _row(group) == row) for row in rows}
    bars = {_row(group): len(_libraries(group)) + 1 for group in groups}
    heights = [longest[row] * bars[row] * BAR + 0.8 for row in rows]
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
    for group in groups:
        row, column = _row(group), layouts.index(group[0].job.layout)
        _panel(axes[rows.index(row), column], group, longest[row])
    _legend(figure, {name for group in groups for name in _libraries(group)})
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _row(group):
    return group[0].job.operation, group[0].job.given


def _libraries(group):
    return [name for name in FILES if any(name in result.times for result in group)]


def _panel(axis, group, room):
    """Bars of one table in room for more, the first case at the top; marks at the other bound."""
    libraries = _libraries(group)
    width = 1 / (len(libraries) + 1)
    centres = [i + len(libraries) * width / 2 for i in range(len(group))]
    for k, library in enumerate(libraries):
        shown = [(i, r.times) for i, r in enumerate(group) if library in r.times]
        ratios = [times[library].least / times[FLOOR].least for _, times in shown]
        places = [i + (k + 0.5) * width for i, _ in shown]
        axis.barh(places, ratios, width, color=COLOURS[library])
    axis.axvline(1, color="black", linewidth=0.8)
    if BOUND in group[0].times:
        bounds = [r.times[BOUND].least / r.times[FLOOR].least for r in group]
        size = 72 * BAR * len(libraries)
        axis.plot(bounds, centres, "k|", markersize=size, markeredgewidth=1.5)
    operation, given = _row(group)
    axis.set(
        visible=True,
        title=f"{operation}{' into a given output' * given}, {group[0].job.layout}",
        ylim=(room, -width),
        xscale="log",
        xlabel="times as long as the floor",
    )
    axis.set_yticks(centres, [result.job.case for result in group], fontsize=8)
    _ticks(axis)


def _ticks(axis):
    """Plain numbers, and grid lines to read bars by."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(labelbottom=True)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _legend(figure, libraries):
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [Patch(color=COLOURS[name], label=name) for name in FILES if name in libraries]
    handles.append(Line2D([], [], color="black", linewidth=0.8, label="memory floor, one pass"))
    mark = {"marker": "|", "linestyle": "", "markersize": 14, "markeredgewidth": 1.5}
    handles.append(Line2D([], [], color="black", label="memory bound of two passes", **mark))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
