"""Tables for the terminal and for the README, and the line that says what they were made on."""

from importlib.metadata import version
from math import log10
from pathlib import Path

from .libraries import FILES

WIDTH = 180  # characters that a table may take


def machine(libraries=("fastbn", "PyTorch")):
    """Processor, threads and versions, for a caption."""
    import fastbn

    info = fastbn.config_info()
    threads = f"{info['threads']} thread{'s' if info['threads'] > 1 else ''}"
    versions = [f"{p} {info[p.lower()]}" for p in ("Python", "fastbn", "NumPy", "Numba")]
    more = {"torch": "PyTorch", "jax": "JAX"}
    modules = dict.fromkeys(FILES[library][1] for library in libraries)
    versions += [f"{more[module]} {version(module)}" for module in modules if module in more]
    return ", ".join([info["cpu"], threads, *versions])


def markdown(title, headings, rows):
    """A table in Markdown. The first column is text; in the others, numbers are set right."""
    rule = ["---"] + ["---:"] * (len(headings) - 1)
    lines = [f"| {' | '.join(row)} |" for row in (headings, rule, *rows)]
    return "\n".join([f"**{title}**\n", *lines] if title else lines)


def show(title, headings, rows):
    """The same on the terminal, wider than it rather than cut."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=max(Console().width, WIDTH)).print(table)


def replace(path, marker, text):
    """Put text between ``<!-- marker -->`` and ``<!-- /marker -->`` in a file."""
    first, last = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
    before, found, rest = Path(path).read_text().partition(first)
    _, found_too, after = rest.partition(last)
    if not (found and found_too):
        raise ValueError(f"{path} should have the lines {first.strip()} and {last.strip()}")
    Path(path).write_text(before + first + text + "\n" + last + after)


def progress(items, describe=str):
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
