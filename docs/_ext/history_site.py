"""asv's page of the benchmarks' history, as a part of the site: it loads nothing from elsewhere."""

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from history_results import ROOT, commits
from sphinx.errors import ExtensionError

VENDOR = Path(__file__).parents[1] / "_vendor"
FOLDER = "asv"  # of the site

_ROW = re.compile(r"^\| `([^`]+)` \|.*\| `(sha[^`]+)` \| (?:same|`(sha[^`]+)`) \|$", re.MULTILINE)
_LOADS = re.compile(r'<(script|link)\b[^>]*?(?:src|href)="((?:https?:)?//[^"]+)"[^>]*>')
_INTEGRITY = re.compile(r'integrity="([^"]+)"')
_TAGS = {"script": '<script src="vendor/{}">', "link": '<link rel="stylesheet" href="vendor/{}">'}


def has_repository():
    """Whether this is a checkout, and not what a source archive holds."""
    return (ROOT / ".git").exists() and shutil.which("git") is not None


@cache
def obstacle():
    """Why asv cannot draw graphs here; nothing where it can."""
    if not has_repository():
        return "there is no Git repository, from which asv takes the order of commits"
    command = "git", "rev-list", "--first-parent", "HEAD"
    git = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if git.returncode:
        return git.stderr.strip()
    known, kept = set(git.stdout.split()), [commit.hash for commit in commits()]
    lacking = [one for one in kept if one not in known]
    if lacking:
        return (
            f"{len(lacking)} of {len(kept)} commits of benchmarks/history are not in this branch "
            f"({lacking[0][:7]}): is this a shallow clone? `git fetch --unshallow` completes it"
        )
    return ""


def vendored():
    """The names of the files in docs/_vendor, by the hash that asv's page asks for."""
    return {asked: name for name, asked, _ in rows()}


def rows():
    """The table of docs/_vendor/README.md: file, hash asked for, hash of the copy if another."""
    return _ROW.findall((VENDOR / "README.md").read_text(encoding="utf-8"))


def localise(page):
    """asv's page with our copies of the files that it loads from elsewhere."""
    files = vendored()

    def copy_of(tag):
        kind, url = tag.groups()
        integrity = _INTEGRITY.search(tag[0])
        name = files.get(integrity[1]) if integrity else None
        if name is None:
            asked = integrity[1] if integrity else "no hash given"
            message = f"docs/_vendor has no copy of {url} ({asked}), which this asv loads"
            raise ExtensionError(f"{message}: docs/_vendor/README.md says how to add one")
        return _TAGS[kind].format(name)

    return _LOADS.sub(copy_of, page)


def publish(site):
    """Write asv's page into a folder of the site."""
    target = Path(site).resolve() / FOLDER
    config = str(ROOT / "asv.conf.json")
    asv = sys.executable, "-m", "asv", "--config", config, "publish", "--no-pull", "--html-dir"
    made = subprocess.run([*asv, str(target)], cwd=ROOT, capture_output=True, text=True)
    if made.returncode:
        raise ExtensionError(f"asv publish: {made.stdout}{made.stderr}")
    page = target / "index.html"
    page.write_text(localise(page.read_text(encoding="utf-8")), encoding="utf-8")
    (target / "error.html").unlink(missing_ok=True)  # for files that elsewhere did not load
    shutil.copytree(VENDOR, target / "vendor", ignore=shutil.ignore_patterns(".*"))
    _keep_measured(target)


def _keep_measured(target):
    """Take benchmarks without results, whose graphs the page would ask for, off its list."""
    path = target / "index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    graphs = {graph.stem for graph in (target / "graphs" / "summary").glob("*.json")}
    index["benchmarks"] = {k: v for k, v in index["benchmarks"].items() if k in graphs}
    index["project_url"] = "../index.html"  # back to the site
    path.write_text(json.dumps(index), encoding="utf-8")
