"""Links of the built site, offline: each leads somewhere, and nothing is loaded from elsewhere."""

from urllib.parse import urlsplit

import pytest
from pages import Site

# Sphinx makes these; the theme links to none of them.
OF_SPHINX = {"genindex.html", "py-modindex.html", "_modules/index.html"}


@pytest.fixture(scope="session")
def site(root):
    """The site, read once."""
    return Site(root)


def test_links_lead_somewhere(site):
    assert len(site.pages) >= 10
    assert list(site.dead()) == []


def test_pictures_of_processors_open_in_full(site):
    page = site.pages[site.root / "processors.html"]
    pictures = {url for url in page.loads if url.startswith("_images/")}
    assert len(pictures) >= 3
    assert pictures <= set(page.links)


def test_every_page_is_reached_from_the_start(site):
    left = {site.name(path) for path in site.pages.keys() - site.reached("index.html")}
    assert left <= OF_SPHINX


def test_nothing_is_loaded_from_elsewhere(site):
    assert site.styles
    assert list(site.foreign()) == []


def test_links_to_elsewhere_are_https(site, artefacts):
    external = site.external()
    (artefacts / "external_links.txt").write_text("\n".join(external) + "\n")
    assert [url for url in external if not well_formed(url)] == []


def well_formed(url):
    parts = urlsplit(url)
    known = parts.scheme == "https" and "." in (parts.hostname or "")
    return (known or parts.scheme == "mailto") and " " not in url


def test_the_inventory_leads_to_what_is_documented(site):
    documented = [(name, url) for name, kind, url in site.objects() if kind.startswith("py:")]
    assert "fastbn.forward" in dict(documented)
    assert [name for name, url in documented if not leads(site, url)] == []


def leads(site, url):
    file, fragment = site.target(site.root / "index.html", url)
    return file in site.pages and (not fragment or fragment in site.pages[file].ids)


FAULTS = {
    '<a href="gone.html">': "dead",
    '<a href="#gone">': "dead",
    '<a href="other.html#gone">': "dead",
    '<a href="../outside.html">': "dead",
    '<img src="gone.png">': "dead",
    '<img srcset="other.html 1x, gone.png 2x">': "dead",
    '<link rel="stylesheet" href="gone.css">': "dead",
    '<script src="https://cdn.example.org/a.js"></script>': "foreign",
    '<link rel="stylesheet" href="//cdn.example.org/a.css">': "foreign",
    "<style>@font-face {src: url(https://cdn.example.org/a.woff)}</style>": "foreign",
    '<p style="background: url(https://cdn.example.org/a.png)">': "foreign",
}


@pytest.mark.parametrize(("fault", "kind"), FAULTS.items())
def test_a_fault_would_be_seen(tmp_path, fault, kind):
    (tmp_path / "outside.html").write_text("")
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "other.html").write_text('<h1 id="here"></h1>')
    page = folder / "index.html"
    sound = '<a id="top" href="#top"></a><a href="other.html#here"></a><img src="data:,">'
    page.write_text(sound)
    assert [*Site(folder).dead(), *Site(folder).foreign()] == []
    page.write_text(sound + fault)
    assert {"dead": bool([*Site(folder).dead()]), "foreign": bool([*Site(folder).foreign()])} == {
        "dead": kind == "dead",
        "foreign": kind == "foreign",
    }


def test_a_page_that_no_link_reaches_would_be_seen(tmp_path):
    for name in ("index", "linked", "orphan"):
        (tmp_path / f"{name}.html").write_text('<a href="linked.html"></a>')
    site = Site(tmp_path)
    assert site.pages.keys() - site.reached("index.html") == {tmp_path.resolve() / "orphan.html"}


@pytest.mark.parametrize("url", ["http://example.org/", "https://example", "ftp://example.org"])
def test_an_external_link_that_is_no_https_would_be_seen(url):
    assert not well_formed(url)
    assert well_formed("https://example.org/a#b")
