"""The README: its code runs as it stands, and its first block is two commands."""

import re
from pathlib import Path

import pytest
from process import run_python

README = Path(__file__).parents[2] / "README.md"
pytestmark = pytest.mark.skipif(not README.exists(), reason="no checkout")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_code_runs():
    code = "\n".join(blocks("python"))
    assert code.count("fastbn.") >= 10
    assert run_python(code + "\nprint('done')") == "done\n"


def test_the_first_shell_block_is_two_commands_that_set_themselves_up():
    commands = blocks("sh")[0].splitlines()
    assert len(commands) == 2
    assert all(command.startswith("python3 -m venv .venv && ") for command in commands)


def test_files_that_are_linked_to_exist():
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README.read_text())
    assert len(links) >= 5
    assert [link for link in links if not (README.parent / link).exists()] == []
