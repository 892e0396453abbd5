"""What a file of the kernel cache is named by: the sources that kernels are made from."""

import shutil
from pathlib import Path

import pytest

import fastbn
from fastbn._runtime import cache


@pytest.fixture
def digest_of(tmp_path, monkeypatch):
    """The digest of a copy of the package after a change."""
    package = tmp_path / "fastbn"
    shutil.copytree(Path(fastbn.__file__).parent, package)
    monkeypatch.setattr(cache, "__file__", str(package / "_runtime" / "cache.py"))

    def change(edit=lambda package: None):
        edit(package)
        return cache._source_digest.__wrapped__()

    return change


def append(*names):
    """An edit that adds a comment to some files."""

    def edit(package):
        for name in names:
            with (package / name).open("a") as file:
                file.write("# a comment\n")

    return edit


def test_public_files_and_checks_compile_nothing_anew(digest_of):
    before = digest_of()
    names = ("layers.py", "functional.py", "stats.py", "_cli/bench.py", "_arrays/layout.py")
    assert digest_of(append(*names)) == before == cache._source_digest()


@pytest.mark.parametrize("name", ["_kernels/rows.py", "_kernels/abi.py", "_runtime/jit.py"])
def test_what_kernels_are_made_from_does(digest_of, name):
    before = digest_of()
    assert digest_of(append(name)) != before


def test_a_file_in_another_room_is_another_file(digest_of):
    before = digest_of()
    assert digest_of(lambda p: (p / "_kernels/rows.py").rename(p / "_runtime/rows.py")) != before


def test_lines_that_move_to_the_next_file_are_seen(digest_of):
    def move(package):
        rows, schedule = package / "_kernels/rows.py", package / "_kernels/schedule.py"
        first, _, rest = schedule.read_text().partition("\n")
        rows.write_text(f"{rows.read_text()}{first}\n")
        schedule.write_text(rest)

    before = digest_of()
    assert digest_of(move) != before


def test_without_source_nothing_is_kept(digest_of):
    assert digest_of(lambda package: shutil.rmtree(package)) == ""
