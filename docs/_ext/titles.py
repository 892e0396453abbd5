"""Links whose words are a page's file name show its title in the site.

In the repository `[options.md](options.md)` says where one goes; here files have no names.
"""

import re

from sphinx.addnodes import pending_xref


def ask(app, doctree):
    """Take the words away, so that the title, or that of the section, comes in their place."""
    for node in doctree.findall(pending_xref):
        if node["refdomain"] == "doc" and re.fullmatch(r"[\w/]+\.md", node.astext()):
            node["refexplicit"] = False


def setup(app):
    """Before references are resolved."""
    app.connect("doctree-read", ask)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
