"""The README and pages of docs/: their code runs as it stands; the first block is two commands."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from process import run_python

import fastbn

README = Path(__file__).parents[2] / "README.md"
DOCS = README.parent / "docs"
pytestmark = pytest.mark.skipif(not README.exists(), reason="no checkout")


def blocks(language, page=README):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


LIBRARIES = {"torch": "torch", "dask": "distributed", "mpi": "mpi4py", "sklearn": "sklearn"}


def runs_here(block):
    """Whether the library of each adapter that is imported in a block is installed."""
    return all(find_spec(LIBRARIES[name]) for name in re.findall(r"fastbn\.adapters\.(\w+)", block))


# page: (at least so many times fastbn's name, libraries without which it is skipped)
CODE = {
    README: (5, ()),
    DOCS / "index.md": (2, ()),
    **{DOCS / f"{name}.md": (3, ()) for name in ("start", "layers", "add_operation")},
    **{DOCS / f"{name}.md": (10, ()) for name in ("tutorial", "functional", "variants", "algebra")},
    DOCS / "pytorch.md": (2, ("torch",)),
    DOCS / "scaler.md": (1, ("sklearn", "dask.array")),
    DOCS / "dask.md": (3, ("dask.array", "distributed", "xarray")),
    DOCS / "mpi.md": (1, ("mpi4py",)),
}


@pytest.mark.parametrize("page", CODE, ids=lambda page: page.name)
def test_the_code_runs(page):
    least, libraries = CODE[page]
    for library in libraries:
        pytest.importorskip(library)
    code = "\n".join(filter(runs_here, blocks("python", page)))
    assert code.count("fastbn.") >= least
    assert run_python(code + "\nprint('done')") == "done\n"


def test_the_first_shell_block_is_two_commands_that_set_themselves_up():
    commands = blocks("sh")[0].splitlines()
    assert len(commands) == 2
    assert all(command.startswith("python3 -m venv .venv && ") for command in commands)


PAGES = [README, *sorted(DOCS.glob("*.md")), *sorted((DOCS / "api").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_linked_to_exist(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert page != README or len(links) >= 5
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_reference_has_every_public_name():
    text = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    pages = re.findall(r"\.\. currentmodule:: (\S+)|\.\. auto(?:class|function):: (\S+)", text)
    named, module = set(), ""
    for place, name in pages:
        module = place or module
        named |= {f"{module}.{name}"} if name else set()
    public = {f"fastbn.{name}" for name in fastbn.__all__}
    for name in ("torch", "dask", "mpi", "sklearn"):
        path = Path(fastbn.__file__).parent / "adapters" / name
        source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
        listed = re.search(r"__all__ = (\[.*?\])", source, re.DOTALL)[1]
        public |= {f"fastbn.adapters.{name}.{found}" for found in ast.literal_eval(listed)}
    assert named == public
