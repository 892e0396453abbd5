"""A table and pictures of each run in docs/processors/, for `processors.md`.

A run is what `python -m benchmarks.compare --json` keeps, or ratios to PyTorch alone, where no more
was kept. Of NAME.json there come `_generated/NAME.md`, which the page includes, and its pictures.
"""

import json
from pathlib import Path

from sphinx.util import logging

BAR = 0.8  # inches that the bars of one kind of data take
COLOURS = "#a6cbe8", "#6fa8d6", "#3f83bd", "#225f94", "#0f3c63"  # more threads, darker
ORANGE = "#e6a23c"
# A width makes Sphinx link the picture to its file, in which every word can be read.
FIGURE = """
```{figure} _generated/%s.png
:alt: %s
:width: 100%%

%s
```
"""


def compared(path, folder):
    """The text for a run of `benchmarks.compare`, whose pictures are drawn into the folder."""
    from benchmarks import picture, report

    times, caption = report.load(path)
    table = report.markdown("", report.overview(times)[0][1])
    _draw(_means(times), "library", (ORANGE, COLOURS[2]), folder / f"{path.stem}.png")
    picture.draw(times, folder / f"{path.stem}-cases.png")
    shown = (
        "Geometric means as bars, the worst cases as lines.",
        "Every case. Open it for its words.",
    )
    return table, caption, [(path.stem, shown[0]), (f"{path.stem}-cases", shown[1])]


def _means(times):
    """Geometric mean and worst ratio to each library, by the rows of `report.overview`."""
    import pandas as pd

    from benchmarks import report

    rows = [
        (library, name.replace("_", " "), mean, ratio.min())
        for name, seconds, _ in report.kinds(times)
        for library, ratio, mean in report.beside(seconds)
    ]
    return pd.DataFrame(rows, columns=["library", "data", "mean", "worst"])


def kept(path, folder):
    """The same of ratios that were kept: how many times as long PyTorch takes, by threads."""
    import pandas as pd

    from benchmarks import report

    saved = json.loads(path.read_text("utf-8"))
    ratios = pd.DataFrame(saved["to_pytorch"])
    ratios["cell"] = ratios["mean"].map("{:.2f}x".format) + ratios["worst"].map(", {:.2f}x".format)
    cells = ratios.pivot(index="threads", columns="data", values="cell")[ratios["data"].unique()]
    cells.index = cells.index.map(str).rename("threads")
    _draw(ratios, "threads", COLOURS, folder / f"{path.stem}.png")
    shown = "PyTorch, by number of threads: geometric means as bars, the worst cases as lines."
    return report.markdown("", cells), saved["caption"], [(path.stem, shown)]


def _draw(ratios, by, colours, path):
    """Bars of the means and lines at the worst, a group for each kind of data."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    data, groups = ratios["data"].unique(), ratios.groupby(by, sort=False)
    width = BAR / len(groups)
    for k, ((name, of), colour) in enumerate(zip(groups, colours, strict=True)):
        places = [i + (k - (len(groups) - 1) / 2) * width for i in range(len(data))]
        of = of.set_index("data").loc[data]
        axis.bar(places, of["mean"], 0.9 * width, color=colour, label=str(name))
        axis.hlines(
            of["worst"], [p - width / 2 for p in places], [p + width / 2 for p in places], "k"
        )
    axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axis.set(ylabel="times as long as fastbn", yscale="log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_yticks([1, 2, 5, 10, 20, 50][: 3 if ratios["mean"].max() < 10 else 6])
    axis.set_xticks(range(len(data)), [name.replace(", ", "\n") for name in data])
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(title=by, frameon=False, ncols=len(groups), loc="outside upper center")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def make(app):
    """Write what `processors.md` includes."""
    folder = Path(app.srcdir) / "_generated"
    folder.mkdir(exist_ok=True)
    page = (Path(app.srcdir) / "processors.md").read_text("utf-8")
    for path in sorted((Path(app.srcdir) / "processors").glob("*.json")):
        of = kept if "to_pytorch" in json.loads(path.read_text("utf-8")) else compared
        table, caption, pictures = of(path, folder)
        figures = [FIGURE % (name, words, words) for name, words in pictures]
        text = "\n".join([table, "", caption, *figures])
        (folder / f"{path.stem}.md").write_text(text, "utf-8")
        if f"_generated/{path.stem}.md" not in page:
            logging.getLogger(__name__).warning("processors.md does not include %s", path.stem)


def setup(app):
    """Before pages are read."""
    app.connect("builder-inited", make)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
