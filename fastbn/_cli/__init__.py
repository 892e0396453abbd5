"""The command line: `python -m fastbn info | warmup | tune | verify | bench | doctor`.

Exit codes: 0 if all is well, 1 if a command finds something wrong or cannot do its work, 2 for
wrong arguments, 130 after Ctrl-C, 141 where nobody reads the output any more.
"""

import io
import os
import sys
import traceback

import fastbn

from . import bench, doctor, machine, warmup
from .arguments import Failed, Parser, Refused, one_line

INTERRUPTED, UNREAD = 130, 141  # as a shell says of a process that such a signal has ended


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit code."""
    _encode_all()
    try:
        code = _run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # now, while it can be told that nobody reads
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _silence()
        return UNREAD
    return code


def _run(arguments: list[str] | None) -> int:
    """Parse and run; what goes wrong is one line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.error("no command was given, one of info, warmup, tune, verify, bench, doctor")
    try:
        code: int = options.run(options)
    except Refused as error:
        options.parser.error(str(error))
    except BrokenPipeError:
        raise
    except (Failed, OSError) as error:
        return _failed(options.parser, error)
    except (ImportError, RuntimeError, ValueError) as error:
        if not _is_numbas(error):
            raise
        return _failed(options.parser, f"Numba cannot start: {type(error).__name__}: {error}")
    return code


def _failed(parser: Parser, reason: object) -> int:
    """Say why a command ends; its exit code."""
    print(f"{parser.prog}: {one_line(reason)}", file=sys.stderr)
    return 1


def _is_numbas(error: Exception) -> bool:
    """Whether Numba has raised it: because of its settings, say, or of NumPy's version."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).split(".")[0] == "numba"


def _parser() -> Parser:
    parser = Parser(
        prog="python -m fastbn",
        description=fastbn.__doc__,
        epilog="Exit codes: 0 all is well, 1 something is wrong, 2 wrong arguments.",
    )
    parser.add_argument("--version", action="version", version=f"fastbn {fastbn.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    for add in (
        machine.add_info,
        warmup.add,
        machine.add_tune,
        machine.add_verify,
        bench.add,
        doctor.add,
    ):
        add(commands)
    return parser


def _encode_all() -> None:
    """Let no name of a directory be an error where the output's encoding lacks its letters."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _silence() -> None:
    """Let Python's own last flush have no pipe to fail on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
