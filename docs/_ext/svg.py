"""A sheet to draw boxes, words and arrows on, which is kept as SVG: words stay words."""

from html import escape
from pathlib import Path

FONT = "system-ui, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif"
INK, LINE = "#1f2933", "#52606d"
# Of channels, and of threads: told apart in print and by colour-blind readers, too.
BLUE, ORANGE, GREEN, PINK = "#a6cbe8", "#f5c992", "#a9d8b0", "#e3b5d3"
GREY, RED = "#e4e7eb", "#e8998d"
ARROW = (
    '<marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
    f'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="{LINE}"/></marker>'
)


class Sheet:
    """A drawing of so many pixels, white, whatever is behind it."""

    def __init__(self, width, height, title):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="{FONT}" font-size="14" fill="{INK}">',
            f"<title>{escape(title)}</title><defs>{ARROW}</defs>",
            f'<rect width="{width}" height="{height}" rx="6" fill="white"/>',
        ]

    def text(self, x, y, words, size=14, anchor="middle", bold=False):
        """A line of words, whose middle is at y."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" '
            f'dominant-baseline="central"{weight}>{escape(words)}</text>'
        )

    def box(self, x, y, width, height, fill=GREY, words="", size=14, bold=False):
        """A box, and words in its middle."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="3" fill="{fill}" '
            f'stroke="{LINE}"/>'
        )
        if words:
            self.text(x + width / 2, y + height / 2, words, size, bold=bold)

    def frame(self, x, y, width, height):
        """A thick outline around what is drawn already."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" fill="none" '
            f'stroke="{INK}" stroke-width="2.5"/>'
        )

    def arrow(self, x1, y1, x2, y2):
        """An arrow from one point to another."""
        self.parts.append(
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{LINE}" stroke-width="1.6" '
            'marker-end="url(#arrow)"/>'
        )

    def save(self, path):
        """Write the drawing."""
        Path(path).write_text("\n".join([*self.parts, "</svg>\n"]), encoding="utf-8")
