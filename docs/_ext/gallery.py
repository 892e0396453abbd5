"""The gallery: runs the examples, in their short form, with each build of the site.

`docs/gallery/index.md` is written by hand, and includes `cards.txt`. That file, a page for each
example and its pictures are written here, and git ignores them. An example runs again when its
source, that of a module beside it or that of fastbn has changed; what came of it is kept in the
build's folder, so that a clean build runs them all.
"""

import ast
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gallery_pages
from sphinx.errors import ExtensionError
from sphinx.util.logging import getLogger

EXAMPLES = {  # in the order of the gallery; what is not listed here is a module of one that is
    "train_digits": "With and without batch norm",
    "covariate_shift": "Covariate shift",
    "torch_resnet": "A ResNet of PyTorch's",
    "torch_sync": "PyTorch, on three processes",
    "mpi_sync": "MPI, on four ranks",
    "dask_normalize": "An array that no memory holds",
    "scaler": "Scaling a stream",
}
TIMEOUT = 600  # seconds: a few times what the slowest takes on a machine that is busy otherwise
# Rich writes plain text of this width. The last four are what docs/distributed.md says of
# more ranks than cores, and of root.
SETTINGS = {
    "COLUMNS": str(gallery_pages.WIDTH),
    "TERM": "dumb",
    "FORCE_COLOR": "",
    "PYTHONIOENCODING": "utf-8",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}
logger = getLogger(__name__)


def imported(source):
    """Modules that a program imports, by the first of their names."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return {name.split(".")[0] for name in names}


class Example:
    """A program of examples/, the modules beside it that it needs, and what came of its run."""

    def __init__(self, path, title):
        self.path, self.title = path, title
        self.companions, self.libraries = [], set()
        self.read(path)
        self.doc = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        self.ranks = 4 if "mpi4py" in self.libraries else 0

    def read(self, path):
        """Follow a file's imports."""
        for name in sorted(imported(path.read_text("utf-8"))):
            beside = self.path.with_name(f"{name}.py")
            if not beside.exists():
                self.libraries.add(name)
            elif beside not in self.companions:
                self.companions.append(beside)
                self.read(beside)

    @property
    def name(self):
        return self.path.stem

    def missing(self):
        """What it needs and this machine has not."""
        absent = [name for name in self.libraries if importlib.util.find_spec(name) is None]
        return sorted(absent) + ["mpirun"] * bool(self.ranks and not mpirun())

    def command(self):
        """What runs the short form here."""
        ranks = [mpirun(), "-n", str(self.ranks)] if self.ranks else []
        output = ["--output", f"{self.name}.png"]
        return [*ranks, sys.executable, str(self.path), "--quick", *output]

    def digest(self):
        """Changes with each source that its output may depend on."""
        package = Path(importlib.util.find_spec("fastbn").origin).parent
        found = hashlib.sha256(repr(self.command()).encode())
        for path in (self.path, *self.companions, *sorted(package.rglob("*.py"))):
            found.update(path.read_bytes())
        return found.hexdigest()


def mpirun():
    """MPI's launcher: that of this Python's environment, if it has one."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which("mpirun", path=path) or shutil.which("mpiexec", path=path)


def run(example, folder, timeout):
    """Run it in a folder that was emptied: what it printed, and its pictures as they were drawn."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    process = subprocess.Popen(
        example.command(),
        cwd=folder,
        env=os.environ | SETTINGS,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
        end = f"exit code {process.returncode}" if process.returncode else ""
    except subprocess.TimeoutExpired:
        out, err = stopped(process)
        end = f"not done after {timeout} s"
    drawn = sorted(folder.glob("*.png"), key=lambda path: path.stat().st_mtime_ns)
    pictures = [path.name for path in drawn]
    if end or not pictures:
        end = end or "no picture"
        raise ExtensionError(f"gallery: examples/{example.path.name}: {end}\n{out}\n{err}")
    return out, pictures


def stopped(process):
    """End a process and those that it has started, and read what they have left."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGTERM)  # on which mpirun ends its ranks
    else:
        process.kill()
    return process.communicate()


def result(example, folder, timeout):
    """{"digest", "output", "pictures", "seconds"}: of a run of the same sources, earlier or now."""
    record, digest = folder / "result.json", example.digest()
    if record.exists():
        found = json.loads(record.read_text("utf-8"))
        if found["digest"] == digest:
            return found
    start = time.perf_counter()
    output, pictures = run(example, folder, timeout)
    seconds = time.perf_counter() - start
    # With -q, too: CI shows by this line that the example has run.
    print(f"gallery: examples/{example.path.name} --quick, {seconds:.1f} s", flush=True)
    found = {"digest": digest, "output": output, "pictures": pictures, "seconds": seconds}
    record.write_text(json.dumps(found), "utf-8")
    return found


def available(examples):
    """The examples that can run here. Others are a warning: a site for readers has all."""
    for example in examples:
        missing = example.missing()
        if not missing:
            yield example
        elif missing == ["mpirun"] and sys.platform == "win32":  # MPI may come without a launcher
            logger.info("gallery: no mpirun, so %s is left out", example.name)
        else:
            words = "gallery: %s is left out, for want of %s"
            logger.warning(words, example.name, ", ".join(missing), type="gallery")


def build(app):
    """Run the examples and write the folder gallery/ of the sources."""
    place, titles = app.config.gallery_examples, app.config.gallery_titles
    source = Path(app.srcdir, place).resolve()
    examples = [Example(source / f"{name}.py", title) for name, title in titles.items()]
    files, cards = {}, []
    for example in available(examples):
        folder = Path(app.doctreedir, "gallery", example.name)
        found = result(example, folder, app.config.gallery_timeout)
        files[f"{example.name}.md"] = gallery_pages.page(example, found, place).encode()
        files |= {name: (folder / name).read_bytes() for name in found["pictures"]}
        cards.append((example, found))
    files["cards.txt"] = gallery_pages.cards(cards).encode()
    write(files, Path(app.srcdir, "gallery"))


def write(files, folder):
    """{name: bytes} as the files beside index.md; those that have not changed are not touched."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.is_file() and path.name not in (*files, "index.md"):
            path.unlink()
    for name, content in files.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


def setup(app):
    """What Sphinx calls."""
    app.add_config_value("gallery_examples", "../examples", "")  # from the folder of the sources
    app.add_config_value("gallery_titles", EXAMPLES, "")
    app.add_config_value("gallery_timeout", TIMEOUT, "")
    app.add_css_file("gallery.css")
    app.connect("builder-inited", build)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
