"""What docs/_ext makes while the site is built: drawings, pictures of runs, formulas and links."""

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as tree
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="no checkout")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def extensions(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "_ext")


def test_drawings_are_well_formed_and_their_words_lie_within(tmp_path):
    import drawings

    drawings.draw(tmp_path)
    assert len(list(tmp_path.glob("*.svg"))) == len(drawings.ALL)
    for path in tmp_path.glob("*.svg"):
        sheet = tree.parse(path).getroot()
        width, height = float(sheet.get("width")), float(sheet.get("height"))
        for words in sheet.iter(f"{SVG}text"):
            half = 0.27 * float(words.get("font-size")) * len(words.text)  # of a usual font
            begin = (
                float(words.get("x"))
                - half * {"start": 0, "middle": 1, "end": 2}[words.get("text-anchor")]
            )
            assert begin >= 0, (path.stem, words.text)
            assert begin + 2 * half <= width, (path.stem, words.text)
            assert 0 < float(words.get("y")) < height, (path.stem, words.text)


def test_every_run_has_a_table_and_pictures(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    import processors

    for path in (DOCS / "processors").glob("*.json"):
        of = (
            processors.kept if "to_pytorch" in json.loads(path.read_text()) else processors.compared
        )
        table, caption, pictures = of(path, tmp_path)
        assert len(table.splitlines()) > 4
        assert caption
        assert pictures
        assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name, _ in pictures)
        assert f"_generated/{path.stem}.md" in (DOCS / "processors.md").read_text()


def test_ratios_that_were_kept_are_shown_as_they_are(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    import processors

    ratios = [
        {"threads": threads, "data": "forward, rows", "mean": threads + 0.5, "worst": 0.75}
        for threads in (1, 2, 4, 8, 16)
    ]
    path = tmp_path / "some.json"
    path.write_text(json.dumps({"caption": "Where from.", "to_pytorch": ratios}))
    table, caption, _ = processors.kept(path, tmp_path)
    assert "| 16 | 16.50x, 0.75x |" in table
    assert caption == "Where from."


PAGES = {
    "index": "# One\n\n[other.md](other.md), [words](other.md), [code](../code.py), $x^2$\n\n"
    "```{toctree}\nother\n```\n",
    "other": "# The other page\n\n$$\n\\frac{1}{n}\n$$\n",
}


CONF = f"""
import sys
sys.path.insert(0, {str(DOCS / "_ext")!r})
extensions = ["myst_parser", "mathml", "sources", "titles"]
myst_enable_extensions = ["dollarmath"]
html_math_renderer = "mathml"
"""


# A locale in which files are not UTF-8, unless who opens them says so.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site of two pages, built by our extensions in a process of its own."""
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    root = tmp_path_factory.mktemp("root")
    (root / "docs").mkdir()
    (root / "code.py").write_text("answer = 42  # \u00b1 0\n", "utf-8")
    (root / "docs" / "conf.py").write_text(CONF)
    for name, text in PAGES.items():
        (root / "docs" / f"{name}.md").write_text(text)
    command = sys.executable, "-m", "sphinx", "-W", "-q", root / "docs", root / "site"
    subprocess.run(command, check=True, env=os.environ | ASCII)
    return root / "site"


def test_formulas_are_mathml_and_need_no_script(site):
    page, other = ((site / f"{name}.html").read_text() for name in PAGES)
    assert re.search(r"<msup>\s*<mi>x</mi>\s*<mn>2</mn>\s*</msup>", page)
    assert re.search(r'<math[^>]*display="block"', other)
    assert re.findall(r'<script[^>]*src="(?:https?:)?//', page + other) == []


def test_links_show_titles_in_place_of_file_names_and_keep_other_words(site):
    links = re.findall(r'href="other\.html"><span[^>]*>(.*?)</span>', body(site))
    assert links == ["The other page", "words"]


def body(site):
    """The first page, without what is around it."""
    page = (site / "index.html").read_text()
    return page.partition('role="main"')[2].partition('<div class="toctree')[0]


def test_a_linked_file_has_a_page_that_shows_it(site):
    assert 'href="source/code.py.html"' in body(site)
    shown = re.sub("<[^>]*>", "", (site / "source" / "code.py.html").read_text("utf-8"))
    assert "answer = 42  # \u00b1 0" in shown
    assert not (site / "_downloads").exists()
