"""Forks wait while another thread imports fastbn or compiles: the child would hang for ever.

Whoever forks holds the locks that are named here, so that no other thread does. `import fastbn`
registers this, before any thread can begin to call.
"""

# What is registered last is called first by a fork. These modules register locks of their own,
# which imports take: a fork that held them and waited for ours would never end.
import concurrent.futures.thread  # noqa: F401
import logging  # noqa: F401
import os
import sys
from threading import RLock
from typing import Any

importing = RLock()  # held by who imports what a name of fastbn needs, Numba above all
_others: list[Any] = []  # held by nobody who imports or compiles meanwhile
_held: list[Any] = []  # by the fork that is under way


def _compiler_lock() -> Any:
    """What Numba holds while it compiles; None as long as Numba is not loaded."""
    return getattr(sys.modules.get("numba.core.compiler_lock"), "global_compiler_lock", None)


def wait_for(lock: Any) -> None:
    """Have forks wait for a lock."""
    _others.append(lock)


def _before() -> None:
    taken: list[Any] = []

    def take(lock: Any) -> None:
        lock.acquire()
        taken.append(lock)

    try:
        take(importing)  # Numba may be on its way: only now it is known whether it is loaded
        compiling = _compiler_lock()
        if compiling is not None:
            taken.pop().release()  # who compiles may import; nobody compiles to import
            take(compiling)
            take(importing)
        for lock in list(_others):
            take(lock)
    except BaseException:  # an interrupt while it waits: the fork goes on without
        for lock in taken:
            lock.release()
        raise
    # Only these: others may be made, and Numba loaded, while the fork is under way.
    _held[:] = taken


def _after() -> None:
    held = list(_held)
    _held.clear()
    for lock in reversed(held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
