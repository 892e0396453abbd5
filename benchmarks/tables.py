"""Tables for the terminal and for the README, and the line that says what they were made on."""

from importlib.metadata import version
from math import log10

from .libraries import installed


def machine():
    """Processor, threads and versions, for a caption."""
    import fastbn

    info = fastbn.config_info()
    threads = f"{info['threads']} thread{'s' if info['threads'] > 1 else ''}"
    versions = [f"{p} {info[p.lower()]}" for p in ("Python", "fastbn", "NumPy", "Numba")]
    torch = [f"PyTorch {version('torch')}"] if "PyTorch" in installed() else []
    return ", ".join([info["cpu"], threads, *versions, *torch])


def show(title, headings, rows, markdown=False):
    """Print a table. The first column is text; in the others, numbers are set to the right."""
    if markdown:
        rule = ["---"] + ["---:"] * (len(headings) - 1)
        lines = (f"| {' | '.join(row)} |" for row in (headings, rule, *rows))
        print(f"\n**{title}**\n", *lines, sep="\n")
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def progress(items, describe):
    """Pass the items on, with a bar on the terminal that describes the current one.

    The bar is drawn between the items only, so that no thread of it runs while one is timed.
    """
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=len(items))
        for item in items:
            bar.update(task, description=describe(item), refresh=True)
            yield item
            bar.advance(task)


def significant(value, digits=3):
    """A positive number rounded to that many digits, without an exponent."""
    decimals = digits - 1 - int(log10(value)) if value >= 1 else digits - 1
    return f"{value:,.{max(decimals, 0)}f}"
