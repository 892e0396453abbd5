"""Forks wait while another thread imports fastbn or compiles: the child would hang for ever."""

import importlib
import os
import sys
from _thread import RLock  # threading itself takes milliseconds to import
from contextlib import suppress
from typing import Any

importing = RLock()  # held by who imports what a name of fastbn needs, Numba above all
_ready = False


def _compiler_lock() -> Any:
    """What Numba holds while it compiles; None as long as Numba is not loaded."""
    return getattr(sys.modules.get("numba.core.compiler_lock"), "global_compiler_lock", None)


def _before() -> None:
    importing.acquire()  # Numba may be on its way: only now it is known whether it is loaded
    lock = _compiler_lock()
    if lock is not None:
        importing.release()  # who compiles may import; nobody compiles to import
        lock.acquire()
        importing.acquire()


def _after() -> None:
    for lock in filter(None, (importing, _compiler_lock())):
        with suppress(RuntimeError):  # not held: came while the fork was under way
            lock.release()


def prepare() -> None:
    """Before `importing` is first held.

    What is registered last is called first by a fork. These modules register locks of their own,
    which imports take: a fork that held them and waited for ours would never end.
    """
    global _ready
    if not _ready and hasattr(os, "register_at_fork"):
        for name in ("logging", "concurrent.futures.thread"):
            importlib.import_module(name)
        os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
    _ready = True
