"""The built site that these tests look at, and where they leave what they saw.

FASTBN_SITE names the folder that `sphinx-build docs FOLDER` wrote; without it the tests skip, and
with it whatever is missing is an error. FASTBN_ARTEFACTS is a folder for pictures and lists.
"""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root():
    """The folder of the site."""
    name = os.environ.get("FASTBN_SITE")
    if not name:
        pytest.skip("FASTBN_SITE names no built site")
    path = Path(name).resolve()
    assert (path / "index.html").is_file(), f"FASTBN_SITE: no site in {path}"
    return path


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory):
    """The folder for what is kept of a run."""
    name = os.environ.get("FASTBN_ARTEFACTS")
    path = Path(name) if name else tmp_path_factory.mktemp("artefacts")
    path.mkdir(parents=True, exist_ok=True)
    return path
