"""The built site in a browser: pages render, pictures load, the search finds, no complaints."""

import pytest
from browser import PHONE, WIDE, Browser, served
from pages import Site


@pytest.fixture(scope="module")
def browser(root, artefacts):
    """One for all tests of this file."""
    with served(root) as address:
        browser = Browser(address, artefacts)
        yield browser
        browser.close()


def an_api_page(root):
    """The page of some function, wherever it stands."""
    urls = {name: url for name, kind, url in Site(root).objects() if kind == "py:function"}
    return urls["fastbn.forward"].partition("#")[0]


def shown(browser, name, *, pictures=0):
    """Hold that the page which is open is complete, and keep a picture of it."""
    assert len(browser.text()) > 200
    assert browser.is_styled()
    count, empty = browser.images()
    assert count >= pictures
    assert empty == []
    pixels = browser.picture(name)
    assert pixels.std() > 5  # blank has none
    assert browser.faults() == []
    return pixels


PAGES = {
    "start": ("index.html", 0),
    "api": (an_api_page, 0),
    "gallery": ("gallery/index.html", 3),
    "history": ("history.html", 1),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_renders(browser, root, name):
    page, pictures = PAGES[name]
    browser.open(page(root) if callable(page) else page)
    assert browser.wait("h1").text
    shown(browser, name, pictures=pictures)


def test_the_search_finds(browser):
    browser.open("index.html")
    browser.wait("input[name=q]").send_keys("weights\n")
    first = browser.wait("#search-results li a")
    results = browser.driver.find_elements("css selector", "#search-results li")
    assert len(results) >= 3
    shown(browser, "search")
    first.click()
    assert browser.wait("article h1").text
    assert "weights" in browser.text().lower()
    shown(browser, "search_result")


def test_a_search_for_nonsense_finds_nothing(browser):
    browser.open("search.html?q=xyzzyplugh")
    browser.wait("#search-results .search-summary")
    assert browser.driver.find_elements("css selector", "#search-results li") == []
    assert browser.faults() == []


# Pixels of tables that a reader would have to scroll to.
HIDDEN = """
const tables = [...document.querySelectorAll("article .table-wrapper")];
return Math.max(...tables.map(table => table.scrollWidth - table.clientWidth));
"""


def test_the_start_page_on_a_phone(browser):
    with browser.looking(PHONE, mobile=True):
        browser.open("index.html")
        browser.wait("h1")
        shown(browser, "start_phone")
        script = "return document.documentElement.scrollWidth"
        assert browser.driver.execute_script(script) <= PHONE[0]
        assert browser.driver.execute_script(HIDDEN) == 0


def test_the_start_page_in_the_dark(browser):
    with browser.looking(WIDE, scheme="dark"):
        browser.open("index.html")
        browser.wait("h1")
        assert shown(browser, "start_dark").mean() < 100


def test_benchmarks_by_commit(browser):
    browser.open("asv/index.html")
    browser.wait(".benchmark-container canvas")
    names = browser.driver.find_elements("css selector", ".benchmark-container")
    assert len(names) >= 6
    shown(browser, "asv")


INK = """
const canvas = document.querySelector("#main-graph canvas");
const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
return pixels.filter((value, at) => at % 4 === 3 && value > 0).length;
"""


def test_a_graph_of_one_benchmark(browser):
    browser.open("asv/index.html#bench_startup.Startup.track_first_call_cold")
    browser.wait("#main-graph canvas")
    assert "track_first_call_cold" in browser.text()
    assert browser.driver.execute_script(INK) > 1000
    shown(browser, "asv_graph")


FAULTS = {
    "<img src='gone.png'>": "404",
    "<script>throw new Error('thrown on purpose')</script>": "thrown on purpose",
    "<script src='https://cdn.example.org/a.js'></script>": "elsewhere: https://cdn.example.org/",
}


@pytest.mark.parametrize(("fault", "said"), FAULTS.items())
def test_a_fault_would_be_seen(root, browser, tmp_path, fault, said):
    (tmp_path / "index.html").write_text(f"<link rel=icon href='data:,'><h1>Page</h1>{fault}")
    own, (count, empty) = browser.address, (0, [])
    with served(tmp_path) as browser.address:
        browser.open("index.html")
        count, empty = browser.images()
        faults = browser.faults()
        is_styled = browser.is_styled()
    browser.address = own
    assert any(said in fault for fault in faults), faults
    assert len(empty) == count == fault.count("<img")
    assert not is_styled
