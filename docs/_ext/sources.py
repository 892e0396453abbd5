"""Links to files of the repository, such as tests, become links to pages that show them.

Pages of docs/ link to `../tests/public/test_weights.py`, which works where they are read in the
repository. In the site such a link would download the file; here it opens a page with its text.
"""

from pathlib import Path

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.addnodes import download_reference

SCHEME = "repository:"


def mark(app, doctree):
    """Put a reference in place of each download of a file outside docs/."""
    root = Path(app.srcdir).parent
    files = app.env.repository_files.setdefault(app.env.docname, set())
    for node in list(doctree.findall(download_reference)):
        _, path = app.env.relfn2path(node["reftarget"], app.env.docname)
        path = Path(path).resolve()
        if not path.is_relative_to(root) or path.is_relative_to(app.srcdir):
            continue
        name = path.relative_to(root).as_posix()
        files.add(name)
        link = nodes.reference("", "", *node.children, refuri=SCHEME + name, internal=True)
        node.replace_self(link)


def resolve(app, doctree, docname):
    """Let the references lead to the pages, from where each stands."""
    for node in doctree.findall(nodes.reference):
        name = node.get("refuri", "")
        if name.startswith(SCHEME):
            page = f"source/{name.removeprefix(SCHEME)}"
            node["refuri"] = app.builder.get_relative_uri(docname, page)


def pages(app):
    """A page for each file that is linked to."""
    for name in sorted(set().union(*app.env.repository_files.values())):
        text = (Path(app.srcdir).parent / name).read_text("utf-8")
        try:
            lexer = get_lexer_for_filename(name)
        except ClassNotFound:
            lexer = get_lexer_for_filename("plain.txt")
        body = f"<h1>{name}</h1>" + highlight(text, lexer, HtmlFormatter(linenos="inline"))
        yield f"source/{name}", {"title": name, "body": body}, "page.html"


def start(app, env, docnames):
    """Have a place for the names, which is kept between builds."""
    env.repository_files = getattr(env, "repository_files", {})


def purge(app, env, docname):
    """Forget a page that is read anew."""
    getattr(env, "repository_files", {}).pop(docname, None)


def merge(app, env, docnames, other):
    """Take over what another process has read."""
    env.repository_files |= {name: other.repository_files.get(name, set()) for name in docnames}


def setup(app):
    """Before Sphinx collects downloads, when links are resolved, and when pages are written."""
    app.connect("env-before-read-docs", start)
    app.connect("env-purge-doc", purge)
    app.connect("env-merge-info", merge)
    app.connect("doctree-read", mark, priority=100)
    app.connect("doctree-resolved", resolve)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
