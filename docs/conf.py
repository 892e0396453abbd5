"""The documentation: `sphinx-build -W docs SITE`, with `pip install ".[docs]"`."""

import fastbn

project = "fastbn"
author = "the authors of fastbn"
copyright = f"2026, {author}"
version = release = fastbn.__version__

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"fastbn {version}"
