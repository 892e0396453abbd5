"""The documentation: `sphinx-build -W docs SITE`, with `pip install ".[docs]"`."""

import sys
from pathlib import Path

import fastbn

sys.path.insert(0, str(Path(__file__).with_name("_ext")))

project = "fastbn"
author = "the authors of fastbn"
copyright = f"2026, {author}"
version = release = fastbn.__version__

extensions = ["myst_parser"]
extensions += ["gallery"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

html_theme = "furo"
html_static_path = ["_static"]
html_title = f"fastbn {version}"
