"""A directive that shows the benchmarks' history on a page, and asv's page beside the others.

`{history}` becomes the figures of each commit in `benchmarks/history`, in a table and a picture,
and a link to asv's graphs, which are published when all pages are written.
"""

from pathlib import Path

import history_results
import history_site
from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)


class History(SphinxDirective):
    """The figures as they are kept in the repository; no option, no content."""

    def run(self):
        """A picture, a table and a link."""
        commits = history_results.commits()
        if not commits:
            return [nodes.paragraph("", "benchmarks/history holds no results.")]
        for file in history_results.HISTORY.glob("*/*.json"):
            self.env.note_dependency(file)
        text = "\n\n".join([*history_results.tables(commits), graphs()])
        return [self.picture(commits), *self.parse_text_to_nodes(text)]

    def picture(self, commits):
        """Drawn beside what else the build makes: the sources and the site may be on two drives."""
        path = Path(self.env.srcdir) / "_generated" / "history.png"
        path.parent.mkdir(exist_ok=True)
        history_results.draw(commits, path)
        uri = "/_generated/history.png"
        return nodes.image(uri=uri, alt="Times as multiples of the memory floor, and first calls")


def graphs():
    """The link to asv's page, or why there is none."""
    if reason := history_site.obstacle():
        return f"Graphs of all results are not in this build: {reason}."
    return f'<a href="{history_site.FOLDER}/index.html">Graphs of all results, by commit</a>'


def publish(app, exception):
    """Add asv's page to a site that is complete."""
    if exception or app.builder.name != "html" or not history_results.commits():
        return
    if reason := history_site.obstacle():
        say = logger.warning if history_site.has_repository() else logger.info
        say("history: no graphs of benchmarks by commit: %s", reason, type="history")
        return
    history_site.publish(app.outdir)


def setup(app):
    """What Sphinx calls when it loads this."""
    app.add_directive("history", History)
    app.connect("build-finished", publish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
