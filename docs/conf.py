"""The documentation: `sphinx-build -W docs SITE`, with `pip install ".[docs]"`.

What is made while the site is built stands in `_ext`, a module each, and is kept in `_generated`.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
# Behind everything else: `benchmarks` is found there, and fastbn only where none is installed.
sys.path.append(str(HERE.parent))

import fastbn  # noqa: E402

project = "fastbn"
author = "the fastbn developers"
copyright = f"2026, {author}"
version = release = fastbn.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "numpydoc",
    "mathml",
    "drawings",
    "processors",
    "history",
    "gallery",
    "sources",
    "titles",
]
exclude_patterns = ["_build", "_generated", "_vendor"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

default_role = "py:obj"  # in docstrings, `name` is a link where there is such a name
autodoc_typehints = "none"  # docstrings say it in words
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "furo"
html_title = f"fastbn {version}"
html_static_path = ["_static"]
html_css_files = ["fastbn.css"]
html_favicon = "_static/icon.svg"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"footer_icons": []}
