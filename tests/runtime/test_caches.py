"""From which size on data outgrow the caches: a formula, or what was measured on this machine."""

import json

import pytest

import fastbn
from fastbn._runtime import cache, caches


@pytest.fixture
def home(monkeypatch, tmp_path):
    """An empty cache directory."""
    monkeypatch.setattr(cache, "directory", lambda: tmp_path)
    caches.tuned.cache_clear()
    yield tmp_path
    caches.tuned.cache_clear()


@pytest.fixture
def processor(monkeypatch):
    """Caches of the second and of the last level that a test chooses."""

    def choose(core, last):
        monkeypatch.setattr(caches, "_found", lambda: (core, last))

    return choose


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("core", "last", "outgrown"),  # MB; inputs and threads: MB
    [
        pytest.param(1, 32, {(1, 2): 32, (2, 16): 32, (1, 1): 24}, id="a last level that is near"),
        pytest.param(
            2, 300, {(1, 1): 6, (1, 2): 8, (1, 16): 32, (1, 1000): 300}, id="one that is far"
        ),
    ],
)
def test_from_which_size_on_data_outgrow_the_caches(processor, core, last, outgrown):
    processor(core << 20, last << 20)
    assert {key: caches.outgrown(*key) >> 20 for key in outgrown} == outgrown
    assert caches.slab() == core << 19


def test_what_was_measured_goes_before_the_formula(home, processor):
    processor(1 << 20, 32 << 20)
    assert fastbn.config_info()["walks_from"] == "formula"
    found = caches.Tuned({(1, 1): 5, (1, 2): 6, (8, 1): 70, (8, 2): 80}, 1234)
    caches.keep(found)
    assert caches.tuned() == found
    assert [caches.outgrown(1, threads) for threads in (1, 2, 7, 64)] == [5, 5, 70, 70]
    assert caches.outgrown(2, 8) == 80
    assert caches.slab() == 1234
    info = fastbn.config_info()
    assert info["walks_from"] == f"tune ({caches.file().name})"
    assert info["slab"] == 1234
    with caches.assume(1 << 20):
        assert caches.outgrown(1, 2) == 1 << 20


def test_it_counts_for_this_machine_only(home, processor):
    processor(1 << 20, 32 << 20)
    caches.keep(caches.Tuned({(1, 1): 5, (1, 2): 6}, 7))
    processor(1 << 20, 16 << 20)
    caches.tuned.cache_clear()
    assert caches.tuned() is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"outgrown": [], "slab": 5}',
        '{"outgrown": [[1, 1, 5]], "slab": 5}',
        '{"outgrown": [[1, 1, 5], [1, 2, 5]], "slab": 0}',
        '{"outgrown": [[1, 1, -5], [1, 2, 5]], "slab": 5}',
        '{"outgrown": [[1, 1, 5], [1, 2, "many"]], "slab": 5}',
        "\0\1",
    ],
)
def test_a_file_that_makes_no_sense_is_none(home, content):
    caches.file().write_text(content)
    assert caches.tuned() is None
    assert caches.outgrown(1, 2) > 0


def test_what_is_kept_is_whole(home):
    caches.keep(caches.Tuned({(1, 1): 5, (1, 2): 6}, 7))
    assert [file.name for file in home.iterdir()] == [caches.file().name]
    assert json.loads(caches.file().read_text())["slab"] == 7
