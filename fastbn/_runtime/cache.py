"""The on-disk kernel cache: one self-checking file per kernel and signature.

A file is named by the hash of everything that decides its contents and starts with a checksum, so
there is no index to race for and no stale entry to find. Whatever goes wrong is a miss: the kernel
is compiled, and the file written anew.
"""

import hashlib
import os
import pickle
import sys
import tempfile
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import llvmlite
import numba
import platformdirs
from numba.core import compiler, config, serialize
from numba.core.caching import NullCache

_CHECKSUM_BYTES = 32
_SOURCES = ("_kernels", "_runtime")  # what kernels are made from
_OPTIONS = (
    *("OPT", "BOUNDSCHECK", "LOOP_VECTORIZE", "SLP_VECTORIZE", "DEBUGINFO_DEFAULT"),
    "USING_SVML",
)


@cache
def directory() -> Path:
    """Where kernels are kept: ``NUMBA_CACHE_DIR/fastbn`` if that is set, else the user's cache."""
    if config.CACHE_DIR:
        return Path(config.CACHE_DIR).absolute() / "fastbn"
    found = Path(platformdirs.user_cache_dir("fastbn", appauthor=False))
    # A user without a home has "~/.cache", which would be made where the process happens to stand.
    return found if found.is_absolute() else Path(os.devnull) / "fastbn"


@cache
def _source_digest() -> str:
    """A hash of what kernels are made from: their room and this one, for they call across files.

    Empty where there is no source to read, as in an archive: kernels could not be told from old
    ones.
    """
    package = Path(__file__).parents[1]
    files = sorted(file for room in _SOURCES for file in (package / room).rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        name = file.relative_to(package).as_posix()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest() if files else ""


_warned = False


def _warn(reason: Exception) -> None:
    """Say once a process that kernels are compiled in vain."""
    global _warned
    if not _warned:
        _warned = True
        place, remedy = "", ""
        if isinstance(reason, OSError):
            remedy = ", unless NUMBA_CACHE_DIR names a directory that can be written to"
            with suppress(OSError):  # relative to a directory that is gone
                place = f" in {directory()}"
        warnings.warn(
            f"compiled kernels cannot be kept{place} ({reason}): each process compiles them anew"
            f"{remedy}",
            RuntimeWarning,
            stacklevel=2,
        )


class DiskCache(NullCache):
    """What Numba asks for compiled code. ``name`` tells apart what is made from one source.

    Attributes
    ----------
    found, compiled : int
        How often it had what was asked for, and how often that had to be compiled.
    """

    def __init__(self, name: str):
        self._name = name
        self.found = self.compiled = 0
        self._digest = _source_digest()  # now: the source may change before the first compile

    @property
    def cache_path(self):
        return str(directory())

    def _file(self, signature, codegen) -> Path:
        versions = (numba.__version__, llvmlite.__version__, sys.version)
        if not self._digest:
            raise LookupError("no source to tell versions apart by")
        options = [str(getattr(config, name, None)) for name in _OPTIONS]
        machine = codegen.magic_tuple()
        key = (self._name, str(signature), machine, self._digest, versions, options)
        return directory() / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:40]}.kernel"

    def load_overload(self, sig, target_context):
        target_context.refresh()  # loaded code links to symbols that this registers
        try:
            data = self._file(sig, target_context.codegen()).read_bytes()
            checksum, payload = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
            if hashlib.sha256(payload).digest() != checksum:
                return None
            result = compiler.CompileResult._rebuild(target_context, *pickle.loads(payload))
        except Exception:
            return None
        self.found += 1
        return result

    def save_overload(self, sig, data):
        self.compiled += 1
        try:
            self._save(self._file(sig, data.codegen), serialize.dumps(data._reduce()))
        except Exception as error:
            _warn(error)

    def _save(self, file: Path, payload: bytes) -> None:
        """Write a file that is whole or not there."""
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(hashlib.sha256(payload).digest() + payload)
            temporary.replace(file)
        except BaseException:
            temporary.unlink()
            raise
