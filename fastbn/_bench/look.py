"""How pictures of times look: a colour for each library, and an axis of multiples."""

from .libraries import FILES

COLOURS = dict(zip(FILES, ("#c1272d", "#9aa0a6", "#1f77b4", "#7fb3d9", "#e6a23c"), strict=True))


def multiples(axis):
    """Have the x axis of a plot show ratios: as far from 1 to 2 as from 2 to 4."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
