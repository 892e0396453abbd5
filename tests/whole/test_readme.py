"""The README and pages of docs/: their code runs as it stands; the first block is two commands."""

import re
from pathlib import Path

import pytest
from process import run_python

README = Path(__file__).parents[2] / "README.md"
DOCS = README.parent / "docs"
pytestmark = pytest.mark.skipif(not README.exists(), reason="no checkout")


def blocks(language, page=README):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


# page: (at least so many times fastbn's name, libraries without which it is skipped)
CODE = {
    README: (10, ()),
    DOCS / "algebra.md": (10, ()),
    DOCS / "pytorch.md": (2, ("torch",)),
    DOCS / "scaler.md": (1, ("sklearn", "dask.array")),
    DOCS / "distributed.md": (5, ("dask.array", "distributed", "xarray", "mpi4py")),
}


@pytest.mark.parametrize("page", CODE, ids=lambda page: page.name)
def test_the_code_runs(page):
    least, libraries = CODE[page]
    for library in libraries:
        pytest.importorskip(library)
    code = "\n".join(blocks("python", page))
    assert code.count("fastbn.") >= least
    assert run_python(code + "\nprint('done')") == "done\n"


def test_the_first_shell_block_is_two_commands_that_set_themselves_up():
    commands = blocks("sh")[0].splitlines()
    assert len(commands) == 2
    assert all(command.startswith("python3 -m venv .venv && ") for command in commands)


PAGES = [README, *sorted(DOCS.glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_linked_to_exist(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert page != README or len(links) >= 5
    assert [link for link in links if not (page.parent / link).exists()] == []
