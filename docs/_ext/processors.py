"""A table and a picture of each run in docs/processors/, for `processors.md`.

A run is what `python -m benchmarks.compare --json` keeps, or ratios to PyTorch alone, where no more
was kept. For NAME.json there come `_generated/NAME.md` and `_generated/NAME.png`.
"""

import json
from pathlib import Path

from sphinx.util import logging

COLOURS = "#a6cbe8", "#6fa8d6", "#3f83bd", "#225f94", "#0f3c63"  # more threads, darker


def compared(path, picture):
    """The table of a run of `benchmarks.compare`, and its caption; draws the picture."""
    from benchmarks import picture as pictures
    from benchmarks import report

    times, caption = report.load(path)
    pictures.draw(times, picture)
    return report.markdown("", report.overview(times)[0][1]), caption


def kept(path, picture):
    """The same of ratios: how many times as long PyTorch takes, by number of threads."""
    import pandas as pd

    from benchmarks import report

    saved = json.loads(path.read_text())
    ratios = pd.DataFrame(saved["to_pytorch"])
    ratios["cell"] = ratios["mean"].map("{:.2f}x".format) + ratios["worst"].map(", {:.2f}x".format)
    data = ratios["data"].unique()
    cells = ratios.pivot(index="threads", columns="data", values="cell")[data]
    cells.index = cells.index.map(str).rename("threads")
    _draw(ratios, data, picture)
    return report.markdown("", cells), saved["caption"]


def _draw(ratios, data, path):
    """Bars of the means and marks at the worst, a group for each kind of data."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 4), layout="constrained")
    width = 1 / (ratios["threads"].nunique() + 1)
    for k, (threads, of) in enumerate(ratios.groupby("threads")):
        places = [i + (k - 2) * width for i in range(len(data))]
        of = of.set_index("data").loc[data]
        axis.bar(places, of["mean"], width, color=COLOURS[k], label=f"{threads}")
        axis.plot(places, of["worst"], "k_", markersize=8, label="worst" if k == 4 else None)
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set(ylabel="PyTorch's time over fastbn's")
    axis.set_xticks(range(len(data)), [name.replace(", ", "\n") for name in data])
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(title="threads", frameon=False, ncols=6, loc="upper right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def make(app):
    """Write what `processors.md` includes."""
    folder = Path(app.srcdir) / "_generated"
    folder.mkdir(exist_ok=True)
    page = (Path(app.srcdir) / "processors.md").read_text()
    for path in sorted((Path(app.srcdir) / "processors").glob("*.json")):
        of = kept if "to_pytorch" in json.loads(path.read_text()) else compared
        table, caption = of(path, folder / f"{path.stem}.png")
        words = f"{table}\n\n{caption}\n\n![Times beside other libraries]({path.stem}.png)\n"
        (folder / f"{path.stem}.md").write_text(words)
        if f"_generated/{path.stem}.md" not in page:
            logging.getLogger(__name__).warning("processors.md does not include %s", path.stem)


def setup(app):
    """Before pages are read."""
    app.connect("builder-inited", make)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
