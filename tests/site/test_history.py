"""The benchmarks' history: what the repository keeps, its figures, and asv's page of it."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HISTORY = ROOT / "benchmarks" / "history"
pytestmark = pytest.mark.skipif(not HISTORY.is_dir(), reason="no checkout")


@pytest.fixture(scope="module")
def results():
    """The module of docs/_ext that reads the history."""
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    import history_results

    yield history_results
    sys.path.pop(0)


@pytest.fixture(scope="module")
def asv_site(results):
    """The module of docs/_ext that publishes it."""
    pytest.importorskip("sphinx")
    import history_site

    return history_site


def test_every_commit_is_of_this_branch(results):
    git = shutil.which("git")
    if not git or not (ROOT / ".git").exists():
        pytest.skip("no Git repository")
    told = subprocess.run(
        [git, "rev-list", "--first-parent", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    if told.returncode or (ROOT / ".git" / "shallow").exists():
        pytest.skip(f"not the whole repository: {told.stderr}")
    assert {commit.hash for commit in results.commits()} <= set(told.stdout.split())


def test_the_page_tells_of_every_commit(results):
    told = re.findall(r"^\| `([0-9a-f]{7})` \|", (ROOT / "docs" / "history.md").read_text(), re.M)
    assert told == [commit.short for commit in results.commits()]


def a_result(folder, values, params, *, date=1, name="bench_floor.Floor.track_ratio"):
    """A file as asv writes it."""
    columns = ["result", "params", "version", "duration"]
    content = {"commit_hash": f"{date:040x}", "date": date, "result_columns": columns}
    content["results"] = {name: [values, params, "1"]}
    path = folder / "machine" / f"{date}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def test_a_figure_is_the_largest_value_that_was_asked_for(results, tmp_path):
    params = [["'forward'", "'backward'"], ["1", "2", "3"]]
    a_result(tmp_path, [1.0, 5.0, float("nan"), 7.0, None, 9.0], params)
    (commit,) = results.commits(tmp_path)
    name = "bench_floor.Floor.track_ratio"
    assert commit.value(results.Figure("", name, ("forward",))) == 5
    assert commit.value(results.Figure("", name, ("backward",))) == 9
    assert commit.value(results.Figure("", name, ("forward", 3))) is None
    assert commit.value(results.Figure("", "unknown")) is None


def test_commits_are_in_the_order_of_time(results, tmp_path):
    for date in (3, 1, 2):
        a_result(tmp_path, [date / 2], [], date=date, name="bench_startup.Startup.track_import")
    commits = results.commits(tmp_path)
    assert [int(commit.hash, 16) for commit in commits] == [1, 2, 3]
    (table,) = results.tables(commits)
    assert table.splitlines() == [
        "| commit | import, ms |",
        "| --- | ---: |",
        "| 0000000 | 0.5 |",
        "| 0000000 | 1.0 |",
        "| 0000000 | 1.5 |",
    ]


def test_copies_of_what_asv_loads_are_what_their_table_says(asv_site):
    rows = asv_site.rows()
    kept = {path.name for path in asv_site.VENDOR.iterdir() if path.suffix in {".js", ".css"}}
    assert {name for name, *_ in rows} == kept
    for name, asked, other in rows:
        kind, _, digest = (other or asked).partition("-")
        content = (asv_site.VENDOR / name).read_bytes()
        assert base64.b64encode(hashlib.new(kind, content).digest()).decode() == digest, name


def test_asv_page_loads_what_is_kept_here(asv_site):
    asv = pytest.importorskip("asv")
    page = (Path(asv.__file__).parent / "www" / "index.html").read_text()
    local = asv_site.localise(page)
    assert page.count('integrity="') == local.count('"vendor/') == len(asv_site.rows())
    assert "integrity" not in local


def test_a_file_that_is_not_kept_is_named(asv_site):
    from sphinx.errors import ExtensionError

    page = '<script src="https://cdn.example.org/new.js" integrity="sha256-none"></script>'
    with pytest.raises(ExtensionError, match=r"no copy of https://cdn.example.org/new.js \(sha256"):
        asv_site.localise(page)


def test_without_a_repository_the_reason_is_given(asv_site, tmp_path, monkeypatch):
    monkeypatch.setattr(asv_site, "ROOT", tmp_path)
    assert "no Git repository" in asv_site.obstacle.__wrapped__()
    assert not asv_site.has_repository()


def test_commits_that_a_shallow_clone_lacks_are_counted(asv_site, results, tmp_path, monkeypatch):
    if not asv_site.has_repository():
        pytest.skip("no Git repository")
    a_result(tmp_path, [1.0], [], date=0xABCDEF)
    monkeypatch.setattr(asv_site, "commits", lambda: results.commits(tmp_path))
    assert "1 of 1 commits" in asv_site.obstacle.__wrapped__()
    assert "--unshallow" in asv_site.obstacle.__wrapped__()


@pytest.fixture(scope="module")
def published(root):
    """What asv published into the site: its list, and points by benchmark."""
    index = json.loads((root / "asv" / "index.json").read_text())
    points = {name: set() for name in index["benchmarks"]}
    for path in (root / "asv" / "graphs").rglob("*.json"):
        if path.stem in points:
            points[path.stem] |= {
                at for at, value in json.loads(path.read_text()) if measured(value)
            }
    return index, points


def measured(value):
    """Whether a point, or any of its parameters, has a value."""
    return any(v is not None for v in value) if isinstance(value, list) else value is not None


def test_twelve_commits_of_six_benchmarks_are_published(published, results):
    index, points = published
    assert len(index["revision_to_hash"]) >= 12
    assert set(index["revision_to_hash"].values()) >= {one.hash for one in results.commits()}
    assert sum(len(at) >= 12 for at in points.values()) >= 6, {k: len(v) for k, v in points.items()}


def test_every_benchmark_that_is_listed_has_a_graph(published, root):
    index, points = published
    graphs = root / "asv" / "graphs" / "summary"
    assert all((graphs / f"{name}.json").is_file() for name in index["benchmarks"])
    assert all(points.values())
