"""What benchmarks/history keeps of each commit: read, as a table, as a picture.

The results are asv's: https://asv.readthedocs.io/en/stable/dev.html describes the files. A value is
kept for every combination of a benchmark's parameters, in the order of `itertools.product`.
"""

import json
from dataclasses import dataclass
from itertools import product
from math import isfinite
from pathlib import Path

ROOT = Path(__file__).parents[2]
HISTORY = ROOT / "benchmarks" / "history"
CASE = "resnet50-32x64x56x56"  # larger than the caches, and chosen for every commit


@dataclass(frozen=True)
class Figure:
    """A column: the largest value of a benchmark among those whose parameters have these values."""

    title: str
    benchmark: str
    chosen: tuple[str, ...] = ()
    digits: int = 2
    scale: float = 1


def _floor(operation, layout):
    title = f"{operation}, {layout.removeprefix('channels_')}"
    return Figure(title, "bench_floor.Floor.track_ratio", (operation, "new", CASE, layout))


FLOORS = [
    _floor(op, f"channels_{at}") for op in ("forward", "backward") for at in ("first", "last")
]
STARTS = [
    Figure("first call, s", "bench_startup.Startup.track_first_call_cold", digits=1),
    Figure("later, s", "bench_startup.Startup.track_first_call_warm"),
    Figure("import, ms", "bench_startup.Startup.track_import", digits=1),
]
OTHERS = [
    Figure("outputs, ulp", "bench_accuracy.Accuracy.track_outputs"),
    Figure("variances, ulp", "bench_accuracy.Accuracy.track_variances"),
    Figure("memory, % of x", "bench_memory.Memory.track_beyond_output", digits=3, scale=100),
]


class Commit:
    """The results of one commit, on one machine."""

    def __init__(self, path):
        content = json.loads(path.read_text("utf-8"))
        self.hash = content["commit_hash"]
        self.short = self.hash[:7]
        self.time = content["date"]
        columns = content["result_columns"]
        self._results = {
            name: dict(zip(columns, row, strict=False))  # asv leaves out what is missing at the end
            for name, row in content["results"].items()
        }

    def value(self, figure):
        """A figure's value; None where it was not measured, or was too noisy."""
        result = self._results.get(figure.benchmark, {})
        chosen = {repr(value) for value in figure.chosen}
        points = product(*result.get("params", ()))  # a failed benchmark has no values for them
        values = [
            value
            for value, point in zip(result.get("result") or (), points, strict=False)
            if value is not None and isfinite(value) and chosen <= set(point)
        ]
        return figure.scale * max(values) if values else None


def commits(history=HISTORY):
    """All that are kept, the oldest first."""
    files = [path for path in history.glob("*/*.json") if path.name != "machine.json"]
    return sorted(map(Commit, files), key=lambda commit: commit.time)


def tables(commits):
    """The figures in Markdown, times and then the others: a row for each commit."""
    for figures in (FLOORS, [*STARTS, *OTHERS]):
        found = [figure for figure in figures if any(c.value(figure) is not None for c in commits)]
        if found:
            yield "\n".join(_table(commits, found))


def _table(commits, figures):
    yield "| commit | " + " | ".join(figure.title for figure in figures) + " |"
    yield "| --- |" + " ---: |" * len(figures)
    for commit in commits:
        cells = [commit.short]
        for figure in figures:
            value = commit.value(figure)
            cells.append("n/a" if value is None else f"{value:.{figure.digits}f}")
        yield "| " + " | ".join(cells) + " |"


def draw(commits, path):
    """Beside each other: times the memory floor, and seconds of the first calls."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    panels = ((FLOORS, "times the floor of one pass"), (STARTS[:2], "seconds"))
    for axis, (figures, label) in zip(axes, panels, strict=True):
        for line in figures:
            values = [commit.value(line) for commit in commits]
            heights = [float("nan") if value is None else value for value in values]
            axis.plot(range(len(commits)), heights, "o-", markersize=3, label=line.title)
        axis.set_xticks(range(len(commits)), [c.short for c in commits], rotation=60, fontsize=8)
        axis.set(ylabel=label, ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
