"""The picture of `bench`: bars of times as multiples of the floor. Only here is matplotlib used."""

import io
from pathlib import Path

from . import arguments
from .times import FLOOR, LIBRARIES, Row

SECOND_FLOOR = "two passes"
KINDS = (".png", ".svg", ".pdf")
HEIGHT = 0.22  # inches of a bar


def file(text: str) -> Path:
    """A file that a picture can be written to, which is found out now."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise arguments.Wrong("a picture needs matplotlib: pip install matplotlib") from None
    if Path(text).suffix.lower() not in KINDS:
        raise arguments.Wrong(f"{text!r} does not end in one of {', '.join(KINDS)}")
    return arguments.file(text)


def draw(rows: list[Row], title: str, path: Path) -> None:
    """A group of bars for each operation; the file is written once all is drawn."""
    from matplotlib.figure import Figure

    from .._bench.look import multiples

    operations = list(dict.fromkeys(row.operation for row in rows))
    found = [name for name in LIBRARIES if any(row.library == name for row in rows)]
    height = HEIGHT * (len(found) + 1) * len(operations) + 1.6
    figure = Figure(figsize=(8, height), layout="constrained")
    axis = figure.add_subplot()
    for place, operation in enumerate(operations):
        of = {row.library: row for row in rows if row.operation == operation}
        _bars(axis, place, [of[name] for name in found if name in of], 1 / (len(found) + 1))
        if SECOND_FLOOR in of:
            reach, label = (place - 0.45, place + 0.45), f"floor: {SECOND_FLOOR}"
            axis.plot([of[SECOND_FLOOR].times_floor] * 2, reach, "k:", label=label)
    axis.axvline(1, color="black", linewidth=0.8, label=f"floor: {FLOOR}")
    axis.set_yticks(range(len(operations)), operations)
    axis.set(ylim=(len(operations) - 0.5, -0.5), xlabel=f"times as long as {FLOOR} over the data")
    multiples(axis)
    axis.margins(x=0.12)
    axis.set_title(title, fontsize=9)
    _legend(figure, axis)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:].lower(), dpi=120)
    path.write_bytes(drawn.getvalue())


def _bars(axis, place: int, rows: list[Row], width: float) -> None:
    """The libraries of one operation, each with its time in microseconds."""
    from .._bench.look import COLOURS

    for k, row in enumerate(rows):
        y = place + (k - (len(rows) - 1) / 2) * width
        colour = COLOURS[row.library]
        bars = axis.barh(y, row.times_floor, width, color=colour, label=row.library)
        axis.bar_label(bars, [f" {1e6 * row.least:,.0f} us"], fontsize=8)


def _legend(figure, axis) -> None:
    """Each name once."""
    handles = {handle.get_label(): handle for handle in axis.get_legend_handles_labels()[0]}
    figure.legend(
        handles=handles.values(), loc="outside lower center", ncols=len(handles), frameon=False
    )
