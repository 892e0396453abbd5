"""A built site as a reader's browser sees it: pages, what they link to, and what they load."""

import re
import zlib
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

# Links of a page's head that load nothing: the other pages that they name have to exist.
NAMES_ONLY = {
    "index",
    "search",
    "next",
    "prev",
    "up",
    "author",
    "copyright",
    "alternate",
    "canonical",
}
LOADS = {
    ("img", "src"),
    ("script", "src"),
    ("source", "src"),
    ("iframe", "src"),
    ("embed", "src"),
    ("video", "src"),
    ("video", "poster"),
    ("audio", "src"),
    ("object", "data"),
    ("image", "href"),
    ("use", "href"),
}
SETS = {("img", "srcset"), ("source", "srcset")}
LINKS = {("a", "href"), ("area", "href"), ("form", "action")}


def of_css(text):
    """What a stylesheet loads."""
    for url, imported in re.findall(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""", text):
        yield url or imported


class Page(HTMLParser):
    """The identifiers, links and loads of one page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self._style = set(), [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Sort the addresses among a tag's attributes."""
        attributes = {name: value or "" for name, value in attrs}
        names = ("id", "name") if tag == "a" else ("id",)
        self.ids |= {attributes[name] for name in names if name in attributes}
        self._style = tag == "style"
        self.loads += of_css(attributes.get("style", ""))
        for name, value in attributes.items():
            place = tag, name.removeprefix("xlink:")
            if place in LINKS:
                self.links.append(value)
            elif place in LOADS:
                self.loads.append(value)
            elif place in SETS:
                self.loads += [part.split()[0] for part in value.split(",")]
            elif place == ("link", "href"):
                named = set(attributes.get("rel", "").split()) & NAMES_ONLY
                (self.links if named else self.loads).append(value)

    def handle_data(self, data):
        """A page's own styles may load something, too."""
        if self._style:
            self.loads += of_css(data)

    def handle_endtag(self, tag):
        """No styles any more."""
        self._style = self._style and tag != "style"


def elsewhere(url):
    """Whether an address is that of another server, or of no file at all."""
    parts = urlsplit(url)
    return bool(parts.scheme or parts.netloc)


class Site:
    """All pages and stylesheets below a folder."""

    def __init__(self, root):
        self.root = root.resolve()
        self.pages = {
            path: Page(path.read_text(encoding="utf-8")) for path in self.root.rglob("*.html")
        }
        self.styles = {
            path: list(of_css(path.read_text(encoding="utf-8"))) for path in root.rglob("*.css")
        }

    def name(self, path):
        """A file's address within the site."""
        return path.relative_to(self.root).as_posix()

    def target(self, path, url):
        """The file that an address of a page means, and what it means there."""
        parts = urlsplit(url)
        file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        return (file / "index.html" if file.is_dir() else file), unquote(parts.fragment)

    def dead(self):
        """Addresses within the site that lead nowhere: `page: address`."""
        for path, page in self.pages.items():
            for url in dict.fromkeys([*page.links, *page.loads]):
                if not elsewhere(url) and not self._lives(path, url):
                    yield f"{self.name(path)}: {url}"

    def _lives(self, path, url):
        file, fragment = self.target(path, url)
        if not file.is_file() or not file.is_relative_to(self.root):
            return False
        # "#/..." is a view that asv's script shows; the others are places of a page.
        is_place = fragment and not fragment.startswith(("/", ":~:"))
        return not (is_place and file in self.pages and fragment not in self.pages[file].ids)

    def reached(self, start):
        """The pages that links lead to from one of them."""
        seen, ahead = set(), [self.root / start]
        while ahead:
            path = ahead.pop()
            if path in seen or path not in self.pages:
                continue
            seen.add(path)
            links = (url for url in self.pages[path].links if not elsewhere(url))
            ahead += [self.target(path, url)[0] for url in links]
        return seen

    def foreign(self):
        """What pages and stylesheets load from other servers."""
        for path, page in self.pages.items():
            yield from ((self.name(path), url) for url in page.loads if _is_foreign(url))
        for path, urls in self.styles.items():
            yield from ((self.name(path), url) for url in urls if _is_foreign(url))

    def external(self):
        """The addresses of other servers that pages link to."""
        return sorted({url for page in self.pages.values() for url in page.links if elsewhere(url)})

    def objects(self):
        """Name, kind and address of what is documented, as Sphinx's objects.inv has it."""
        head, _, packed = (self.root / "objects.inv").read_bytes().partition(b"using zlib.\n")
        assert head.startswith(b"# Sphinx inventory version 2")
        for line in zlib.decompress(packed).decode().splitlines():
            name, kind, _, url, _ = re.fullmatch(
                r"(.+?) (\S+:\S+) (-?\d+) (\S*) (.*)", line
            ).groups()
            yield name, kind, url.removesuffix("$") + (name if url.endswith("$") else "")


def _is_foreign(url):
    return elsewhere(url) and urlsplit(url).scheme not in {"data", "blob"}
