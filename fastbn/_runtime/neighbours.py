"""Other users of the process's threads: OpenMP's settings are theirs; threadpoolctl may limit ours.

Nothing here needs Numba. threadpoolctl is told of fastbn when both are loaded, whichever is first:
fastbn does not import it, which would take 6 ms and sets an environment variable.
"""

import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

from .._version import __version__

# --- OpenMP ---------------------------------------------------------------------------------------

SETTINGS = ("num_threads", "max_active_levels", "nested")


def _functions(library: Any) -> Iterator[tuple[Callable, Callable]]:
    """What reads and what writes each setting of an OpenMP library, in the order to write them.

    GCC's before version 11 keeps `nested` apart from the levels. LLVM's and Intel's never do, and
    print that the function is deprecated.
    """
    others = hasattr(library, "kmp_set_blocktime")
    for name in SETTINGS[:-1] if others else SETTINGS:
        get = "omp_get_max_threads" if name == "num_threads" else f"omp_get_{name}"
        with suppress(AttributeError):
            yield getattr(library, get), getattr(library, f"omp_set_{name}")


def _openmp() -> list[Any]:
    """The libraries in which Numba's omp layer may find OpenMP's functions.

    A library that is loaded for all goes first: so PyTorch loads its own, and Numba gets that one
    and not what it is linked to.
    """
    import ctypes

    libraries = []
    with suppress(OSError, TypeError):  # Windows has none for all
        libraries.append(ctypes.CDLL(None))
    with suppress(ImportError, OSError):
        omppool = importlib.import_module("numba.np.ufunc.omppool")
        libraries.append(ctypes.CDLL(omppool.__file__))
    return libraries


@contextmanager
def openmp_as_before() -> Iterator[None]:
    """Put back what Numba's omp layer sets when it starts, in this thread or in the process."""
    functions = [pair for library in _openmp() for pair in _functions(library)]
    before = [get() for get, _ in functions]
    try:
        yield
    finally:
        for (get, put), value in zip(functions, before, strict=True):
            if get() != value:
                put(value)


# --- threadpoolctl --------------------------------------------------------------------------------

# What threadpoolctl allows, by the Python thread that said so, and as long as that one lives.
_limits: dict[threading.Thread, int] = {}
_told: ModuleType | None = None  # the threadpoolctl that knows of fastbn


def number() -> int:
    """The number of threads as long as nothing limits it; `threads` puts its own in this place."""
    from . import bounds

    return int(min(bounds.found().values()))


def limits() -> dict[str, float]:
    """What threadpoolctl allows, if it limits the process: the least of all Python threads' limits.

    Each Python thread has its own, so that blocks which overlap in time end in any order. They hold
    for all: whoever computes in a thread pool sets one limit around it.
    """
    found = [limit for thread, limit in list(_limits.items()) if thread.is_alive()]
    return {"threadpoolctl": min(found)} if found else {}


def limited(threads: int) -> int:
    """So many threads, or as many as threadpoolctl allows."""
    if sys.modules.get("threadpoolctl") is not _told:
        tell()
    return int(min([threads, *limits().values()])) if _limits else threads


class Number(int):
    """A number of threads that remembers the limit that it came from, to be put back exactly."""

    limit: int | None


def _get() -> Number:
    threads = Number(limited(number()))
    threads.limit = _limits.get(threading.current_thread())
    return threads


def _set(threads: int) -> None:
    limit = threads.limit if isinstance(threads, Number) else max(1, int(threads))
    for thread in list(_limits):
        if not thread.is_alive():
            _limits.pop(thread, None)
    if limit is None:
        _limits.pop(threading.current_thread(), None)
    else:
        _limits[threading.current_thread()] = limit


def _library() -> str | None:
    """The name of a shared library that is loaded as long as threadpoolctl is.

    threadpoolctl knows users of threads by such names. It needs `_ctypes`; where that is a part of
    the interpreter, there still is the C library.
    """
    import _ctypes

    own = getattr(_ctypes, "__file__", None)
    if own:
        return os.path.basename(os.path.realpath(own)).lower()  # noqa: PTH119
    with suppress(OSError), open("/proc/self/maps", "rb") as maps:  # noqa: PTH123
        for line in maps:
            file = os.path.basename(os.fsdecode(line.rstrip()))  # noqa: PTH119
            if ".so" in file and file.startswith(("libc.so", "libc-", "ld-musl-")):
                return file.lower()
    return None


def _controller(module: Any, library: str) -> type:
    """What threadpoolctl calls."""

    class FastbnController(module.LibController):
        user_api = internal_api = "fastbn"
        filename_prefixes = (library,)

        def get_num_threads(self) -> int:
            return _get()

        def set_num_threads(self, num_threads: int) -> None:
            _set(num_threads)

        def get_version(self) -> str:
            return __version__

    return FastbnController


def tell() -> None:
    """Tell threadpoolctl of fastbn, if it is loaded and does not know yet."""
    global _told
    module, before = sys.modules.get("threadpoolctl"), _told
    if module is None or module is before:
        return
    _told = module
    with suppress(Exception):  # a version that cannot be told; neither an import nor a call fails
        library = _library()
        if library is not None:
            module.register(_controller(module, library))


class _Finder:
    """Finds threadpoolctl as the other finders do, and has fastbn told to it when it is loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "threadpoolctl":
            return None
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find else None
            if spec is not None:
                with suppress(AttributeError):  # a loader that takes nothing: `limited` tells later
                    self._follow(spec.loader)
                return spec
        return None

    def _follow(self, loader: Any) -> None:
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            if module.__name__ == "threadpoolctl":
                tell()
                with suppress(ValueError):  # it was imported twice at once
                    sys.meta_path.remove(self)  # type: ignore[arg-type]

        loader.exec_module = exec_module


def watch() -> None:
    """Tell threadpoolctl of fastbn now, or when it is loaded."""
    if "threadpoolctl" in sys.modules:
        tell()
    else:
        sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]
