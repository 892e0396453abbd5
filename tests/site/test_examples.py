"""The command line that the examples share: a picture's path is refused before any work."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="no checkout")
PROGRAMS = [path for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text()]


@pytest.fixture
def parser(monkeypatch):
    """A parser as the examples make it."""
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    import command_line

    return command_line.new_parser("A sentence.\n\nMore.", "picture.png")


def test_a_picture_that_can_be_drawn_is_taken(parser, tmp_path):
    options = parser.parse_args(["--output", str(tmp_path / "x.SVG"), "--quick"])
    assert (options.output, options.quick) == (tmp_path / "x.SVG", True)
    assert parser.parse_args([]).output == Path("picture.png")
    assert parser.description == "A sentence."


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("nowhere/x.png", "there is no folder nowhere"),
        ("x.json", "should end in one of ."),
        ("x", "should end in one of"),
        ("folder.png", "cannot write to folder.png"),
    ],
)
def test_others_are_refused(parser, tmp_path, monkeypatch, capsys, output, words):
    (tmp_path / "folder.png").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--output", output])
    assert f"argument --output: {words}" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_each_example_has_this_command_line(path):
    assert f'command_line.new_parser(__doc__, "{path.stem}.png"' in path.read_text()
