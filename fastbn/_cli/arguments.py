"""Arguments of commands: what they may be, and the one line that says what is wrong with them."""

import argparse
from collections.abc import Callable, Iterable
from math import inf
from pathlib import Path
from typing import Any, NoReturn

DTYPES = ("float16", "bfloat16", "float32", "float64")
AXES = 64  # at most, in NumPy
Wrong = argparse.ArgumentTypeError  # one argument by itself; the parser names it
Commands = Any  # what argparse adds commands to: its class has no public name


class Refused(Exception):
    """Arguments that make no sense together, or on this machine: exit code 2."""


class Failed(Exception):
    """A command that cannot do what it was asked for: exit code 1."""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong. Options are written out, so that a later one breaks none."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {one_line(message)}; see --help\n")


def one_line(text: object) -> str:
    """A message in one line, whatever came with an argument."""
    return " ".join(str(text).split())


def command(commands: Commands, name: str, run: Callable[..., int], text: str) -> Parser:
    """A parser for a command; ``run`` gets its options and gives the exit code."""
    parser: Parser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def names(allowed: Iterable[str], text: str) -> list[str]:
    """A comma-separated list of names, each once."""
    found = list(dict.fromkeys(text.split(",")))
    for name in found:
        if name not in allowed:
            raise Wrong(f"{name!r} is not one of {', '.join(allowed)}")
    return found


def dtype(name: str) -> str:
    """A name of a dtype, which NumPy knows from here on."""
    if name == "bfloat16":
        try:
            import ml_dtypes  # noqa: F401
        except ImportError:
            raise Wrong("bfloat16 needs the package ml_dtypes") from None
    return name


def dtypes(text: str) -> list[str]:
    """Names of dtypes, comma-separated."""
    return [dtype(name) for name in names(DTYPES, text)]


def shape(text: str) -> tuple[int, ...]:
    """Comma-separated lengths of axes."""
    try:
        lengths = tuple(int(length) for length in text.split(","))
    except ValueError:
        lengths = ()
    if len(lengths) < 2 or min(lengths) < 1:
        raise Wrong(f"{text!r} is not two or more positive lengths: 32,64,7,7")
    if len(lengths) > AXES:
        raise Wrong(f"{len(lengths)} axes are more than the {AXES} that arrays may have")
    return lengths


def seconds(text: str) -> float:
    """A time that passes."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < inf:  # NaN, too
        raise Wrong(f"{text!r} is not a positive number of seconds")
    return value


def file(text: str) -> Path:
    """A file that can be written, which is found out now. One that exists stays as it is."""
    path = Path(text)
    try:
        new = not path.exists()
        if not (new or path.is_file() or path.is_dir()):
            return path  # a pipe or a device: opening it may wait
        with open(text, "ab"):  # noqa: PTH123 - a path has lost the slash at its end
            pass
        if new:
            path.resolve().unlink()  # not the link that leads to it
    except (OSError, ValueError) as error:  # ValueError: a null byte
        reason = getattr(error, "strerror", None) or error
        raise Wrong(f"{text!r} cannot be written ({reason})") from None
    return path
