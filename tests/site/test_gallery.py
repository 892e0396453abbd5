"""The site's gallery: what is listed, what runs again, and what a build does not accept."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx")
pytest.importorskip("myst_parser")
ROOT = Path(__file__).parents[2]
EXTENSION = ROOT / "docs" / "_ext"
pytestmark = pytest.mark.skipif(not EXTENSION.exists(), reason="no checkout")

CONFIGURATION = f"""
import sys
sys.path.insert(0, {str(EXTENSION)!r})
extensions = ["myst_parser", "gallery"]
gallery_examples = "examples"
gallery_titles = {{"fake": "A fake"}}
"""
FAKE = '''"""One sentence.

    python examples/fake.py [--quick]

And `more`.
"""
import sys
from pathlib import Path

import companion

path = Path(sys.argv[sys.argv.index("--output") + 1])
path.write_bytes(companion.PICTURE)
with open(companion.RUNS, "a") as runs:
    runs.write("run ")
print("to", "be", "read")
'''
PICTURE = bytes.fromhex(  # one grey pixel
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c636800000082008177cd72b60000000049454e44ae426082"
)


@pytest.fixture
def site(tmp_path):
    """Sources of a site with one example that takes no time."""
    for name in ("docs/gallery", "docs/examples"):
        (tmp_path / name).mkdir(parents=True)
    files = {
        "conf.py": CONFIGURATION,
        "index.md": "# Site\n\n```{toctree}\ngallery/index\n```\n",
        "gallery/index.md": "# Examples\n\n```{include} cards.txt\n```\n",
        "examples/fake.py": FAKE,
        "examples/companion.py": f"PICTURE = {PICTURE!r}\nRUNS = {str(tmp_path / 'runs')!r}\n",
    }
    for name, text in files.items():
        (tmp_path / "docs" / name).write_text(text)
    return tmp_path


def build(site):
    """`sphinx-build -W -q` as a process: (exit code, what it says)."""
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "docs", "site"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def edit(site, name, old, new):
    """Change a file of the site's sources."""
    path = site / "docs" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def runs(site):
    """How often the example has run."""
    return len((site / "runs").read_text().split())


def test_each_program_is_listed():
    sys.path.insert(0, str(EXTENSION))
    try:
        import gallery
    finally:
        sys.path.remove(str(EXTENSION))
    files = (ROOT / "examples").glob("*.py")
    assert {path.stem for path in files if is_program(path)} == set(gallery.EXAMPLES)


def is_program(path):
    """Does it have a branch for `__name__ == "__main__"`?"""
    body = ast.parse(path.read_text()).body
    tests = [ast.unparse(node.test) for node in body if isinstance(node, ast.If)]
    return "__name__ == '__main__'" in tests


def test_the_site_shows_what_the_example_wrote_and_printed(site):
    code, said = build(site)
    assert code == 0, said
    assert "examples/fake.py --quick" in said
    assert (site / "site/_images/fake.png").read_bytes() == PICTURE
    page = (site / "site/gallery/fake.html").read_text()
    assert "<code" in page
    for text in ("A fake", "One sentence.", "to be read", "PICTURE", "And"):
        assert text in page
    assert "fake.html" in (site / "site/gallery/index.html").read_text()


def test_it_runs_again_only_if_a_source_has_changed(site):
    assert [build(site)[0] for _ in range(2)] == [0, 0]
    assert runs(site) == 1
    edit(site, "examples/companion.py", "RUNS", "ELSE = 1\nRUNS")
    assert build(site)[0] == 0
    assert runs(site) == 2
    edit(site, "conf.py", "A fake", "A title")  # which is no source of it
    assert build(site)[0] == 0
    assert runs(site) == 2
    (site / "site").rename(site / "old")
    assert build(site)[0] == 0
    assert runs(site) == 3


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('print("to", "be", "read")', 'raise SystemExit("it went wrong")', "it went wrong"),
        ("path.write_bytes(companion.PICTURE)", "", "fake.py: no picture"),
        ("import companion", "import companion\nif not path: import nowhere", "want of nowhere"),
    ],
    ids=["failure", "no picture", "no library"],
)
def test_the_build_fails(site, old, new, said):
    edit(site, "examples/fake.py", old, new)
    code, words = build(site)
    assert code != 0
    assert said in words


def test_an_example_that_hangs_fails(site):
    edit(site, "examples/fake.py", "import companion", "import time; time.sleep(600)")
    edit(site, "conf.py", "gallery_titles", "gallery_timeout = 2\ngallery_titles")
    code, words = build(site)
    assert code != 0
    assert "fake.py: not done after 2 s" in words


def test_pages_of_examples_that_are_gone_are_removed(site):
    assert build(site)[0] == 0
    for name in ("fake.py", "companion.py"):
        path = site / "docs/examples" / name
        path.with_name(name.replace("fake", "other")).write_text(path.read_text())
    edit(site, "conf.py", '"fake"', '"other"')
    code, said = build(site)
    assert code == 0, said
    assert not (site / "docs/gallery/fake.png").exists()
