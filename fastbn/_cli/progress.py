"""How far a command is that takes minutes, on the standard error."""

import sys
from collections.abc import Iterator
from importlib.util import find_spec


def progress(steps: list[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Pass the steps on, with a bar where there are a terminal and rich, else with a line each."""
    if sys.stderr.isatty() and find_spec("rich"):
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=len(steps))
            for step in steps:
                bar.update(task, description=" ".join(step))
                yield step
                bar.advance(task)
        return
    for i, step in enumerate(steps, 1):
        print(f"{i}/{len(steps)}", *step, file=sys.stderr, flush=True)
        yield step
