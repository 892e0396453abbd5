"""`doctor`: what is wrong here, and what to do about it."""

import argparse
import json

from . import facts, findings
from .arguments import Commands, Failed, command

LAST = {
    findings.OK: "nothing is wrong",
    findings.NOTE: "nothing is wrong",
    findings.SLOW: "nothing is wrong, but some things cost time",
    findings.WRONG: "something is wrong",
}
Found = list[tuple[str, findings.Finding]]


def add(commands: Commands) -> None:
    """The command."""
    parser = command(commands, "doctor", run, "what is wrong here, and what to do about it")
    parser.add_argument("--json", action="store_true", help="for machines")


def run(options: argparse.Namespace) -> int:
    """Look at everything; 1 if something is wrong, 0 if it is right or only slow."""
    try:
        found = list(findings.judge(facts.gather()))
    except (ImportError, RuntimeError, ValueError) as error:  # of Numba, or of its settings
        raise Failed(f"fastbn cannot start here: {type(error).__name__}: {error}") from error
    print(_as_json(found) if options.json else _as_text(found))
    return int(_worst(found) == findings.WRONG)


def _worst(found: Found) -> str:
    levels = list(LAST)
    return max((finding.level for _, finding in found), key=levels.index)


def _as_json(found: Found) -> str:
    checks = [{"check": name, **finding._asdict()} for name, finding in found]
    return json.dumps({"worst": _worst(found), "checks": checks}, indent=2)


def _as_text(found: Found) -> str:
    """A line for each check, and one for what to do."""
    lines = []
    for name, finding in found:
        lines.append(f"{finding.level:7}{name:17}{finding.found}")
        if finding.remedy:
            lines.append(f"{'':24}-> {finding.remedy}")
    return "\n".join([*lines, "", LAST[_worst(found)]])
