"""The drawings of `how.md` and `algebra.md`, made anew whenever the site is built.

python docs/_ext/drawings.py FOLDER
"""

import sys
from pathlib import Path

from svg import BLUE, GREEN, GREY, ORANGE, PINK, RED, Sheet


def passes():
    """The steps of a pass, and what each reads and writes."""
    sheet = Sheet(720, 400, "The steps of a forward and of a backward pass")
    forward = "y = (x \u2212 center) \u00b7 scale + offset"
    backward = "dx = (dy + (x \u2212 center) \u00b7 scale + offset) \u00b7 gain"
    _steps(sheet, 20, "forward", "x", "y", forward)
    _steps(sheet, 210, "backward", "x and dy", "dx", backward)
    return sheet


def _steps(sheet, top, name, inputs, output, formula):
    """One pass: the arrays above, its five steps beneath."""
    sheet.text(20, top + 10, name, 16, "start", bold=True)
    sheet.text(700, top + 10, formula, 14, "end")
    sheet.box(20, top + 28, 590, 34, BLUE, f"{inputs}, in memory")
    sheet.box(624, top + 28, 76, 34, RED, output)
    notes = "near the mean", "of blocks", "in fixed order", "C coefficients", "each value once"
    for k, (step, note) in enumerate(
        zip(("shift", "sum", "merge", "prepare", "write"), notes, strict=True)
    ):
        left = 20 + 143 * k
        sheet.box(left, top + 106, 108, 36, GREY, step, bold=True)
        sheet.text(left + 54, top + 156, note, 13)
        if k:
            sheet.arrow(left - 34, top + 124, left - 2, top + 124)
    sheet.arrow(217, top + 62, 217, top + 104)
    sheet.text(225, top + 83, "read", 13, "start")
    sheet.arrow(600, top + 62, 600, top + 104)
    sheet.text(592, top + 83, "read again", 13, "end")
    sheet.arrow(662, top + 106, 662, top + 64)
    sheet.text(670, top + 83, "write", 13, "start")


def layouts():
    """The same values in both orders of memory, and what a vector holds in each."""
    sheet = Sheet(720, 236, "Two orders of memory")
    first = [(c, n) for n in range(2) for c in range(3) for _ in range(4)]
    last = [(c, n) for n in range(2) for _ in range(4) for c in range(3)]
    words = (
        "channels first: a run of L values is one channel; a vector lies within a run",
        "channels last: neighbours differ in channel; a vector holds several channels",
    )
    for top, order, line in ((20, first, words[0]), (140, last, words[1])):
        sheet.text(24, top + 8, line, 14, "start", bold=True)
        for k, (channel, _) in enumerate(order):
            fill = (BLUE, ORANGE, GREEN)[channel]
            sheet.box(24 + 28 * k, top + 28, 28, 34, fill, "abc"[channel])
        for k in (0, 4):
            sheet.frame(24 + 28 * k, top + 26, 112, 38)
        for n in range(2):
            sheet.text(24 + 336 * n + 168, top + 80, f"sample {n}", 13)
    return sheet


def slabs():
    """What is read of memory and what of a cache, in whole passes and slab by slab."""
    sheet = Sheet(720, 340, "Whole arrays and slabs")
    whole = [(k, "read") for k in range(4)] + [(k, "memory") for k in range(4)]
    slab = [(k, what) for k in range(4) for what in ("read", "cache")]
    names = "whole arrays: x comes from memory twice", "slab by slab: once, then from the cache"
    for top, order, name in ((16, whole, names[0]), (184, slab, names[1])):
        sheet.text(24, top + 8, name, 14, "start", bold=True)
        sheet.text(70, top + 46, "reads x", 13, "end")
        sheet.text(70, top + 90, "writes y", 13, "end")
        for at, (k, what) in enumerate(order):
            left, fill = 80 + 77 * at, GREEN if what == "cache" else BLUE
            sheet.box(left, top + 28, 77, 36, fill, f"slab {k}", 13)
            if what != "read":
                sheet.box(left, top + 72, 77, 36, RED, f"slab {k}", 13)
        sheet.arrow(80, top + 122, 696, top + 122)
        sheet.text(388, top + 136, "time of one thread", 13)
    return sheet


def merge():
    """Blocks of one channel, by whichever thread, and their sums in one order."""
    sheet = Sheet(720, 300, "The same blocks, added up in the same order")
    shades = BLUE, ORANGE, GREEN, PINK
    for row, threads in enumerate((1, 2, 4)):
        top = 20 + 44 * row
        sheet.text(24, top + 17, f"{threads} thread" + "s" * (threads > 1), 14, "start")
        for k in range(8):
            fill = shades[k * threads // 8]
            sheet.box(120 + 72 * k, top, 68, 34, fill, f"block {k}", 13)
    for k in range(8):
        sheet.arrow(154 + 72 * k, 144, 154 + 72 * k, 176)
        sheet.box(120 + 72 * k, 178, 68, 34, GREY, f"sums {k}", 13)
        if k:
            sheet.text(120 + 72 * k - 2, 228, "+", 16, bold=True)
    sheet.text(24, 195, "float64", 14, "start")
    sheet.arrow(120, 246, 692, 246)
    sheet.text(406, 268, "one after the other, in the order of memory: mean, m2", 14)
    return sheet


def parts():
    """Batch norm of a batch in three parts, forward and backward."""
    sheet = Sheet(720, 330, "A batch in parts")
    names = ("batch_stats", "merge_stats", "normalize"), ("backward_sums", "+", "backward_input")
    for top, pass_, arrays, of in ((20, "forward", "x", "y"), (180, "backward", "x, dy", "dx")):
        first, middle, last = names[pass_ == "backward"]
        kept = "stats" if pass_ == "forward" else "sums"
        sheet.text(20, top + 8, pass_, 16, "start", bold=True)
        sheet.text(225, top + 8, first, 14, bold=True)
        sheet.text(407, top + 54, middle, 14, bold=True)
        sheet.text(590, top + 8, last, 14, bold=True)
        for k, width in enumerate((110, 60, 85)):
            y, fill = top + 26 + 40 * k, (BLUE, ORANGE, GREEN)[k]
            sheet.box(20, y, width, 30, fill, arrays, 13)
            sheet.arrow(24 + width, y + 15, 182, y + 15)
            sheet.box(184, y, 84, 30, GREY, kept, 13)
            sheet.arrow(270, y + 15, 358, top + 75 + 8 * k)
            sheet.arrow(456, top + 75 + 8 * k, 546, y + 15)
            sheet.box(550, y, width, 30, fill, of, 13)
        sheet.box(360, top + 74, 94, 34, GREY, "of the whole", 13)
    return sheet


ALL = passes, layouts, slabs, merge, parts


def draw(folder):
    """Write all drawings into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for drawing in ALL:
        drawing().save(folder / f"{drawing.__name__}.svg")


def setup(app):
    """Draw before pages are read."""
    app.connect("builder-inited", lambda app: draw(Path(app.srcdir) / "_generated"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
