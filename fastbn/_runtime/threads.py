"""How many threads a kernel gets, and whether it may launch them now.

One team at a time: a caller that finds the team busy computes alone, with the same bits. That keeps
Numba's ``workqueue`` layer from aborting the process and bounds oversubscription on every layer.
"""

import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from time import perf_counter

import numba

from . import errors, forks
from .pace import Kind, Pace

_team = threading.Lock()
pace = Pace()
_chosen: int | None = None
_mine = threading.local()  # `chosen`: what this Python thread has asked for
_launched = False  # has this process, or the one that it was forked from, started a team?
_forked = False


def control_groups(
    controller: str,
    root: Path = Path("/sys/fs/cgroup"),
    own: Path = Path("/proc/self/cgroup"),
) -> set[Path]:
    """Where the limits of "cpu" or "memory" stand that this process is under, version 2 or 1.

    A service's limit is that of its own group or of any above it; a container sees its own as root.
    """
    groups = {root, root / controller}
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = (line + "::").split(":", 2)
            base = root / controller if controller in controllers.split(",") else root
            if not controllers or base != root:
                inner = base / path.rstrip(":").lstrip("/")
                groups |= {group for group in (inner, *inner.parents) if root in group.parents}
    return groups


def _cgroup_quota(*places: Path) -> float:
    """CPUs that the control groups grant; infinity without a limit."""
    return min(map(_quota, control_groups("cpu", *places)))


def _quota(group: Path) -> float:
    """What one control group grants, whichever the version of its files."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        granted, period = (group / "cpu.max").read_text().split()
        return math.inf if granted == "max" else int(granted) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota = int((group / "cpu.cfs_quota_us").read_text())
        return quota / int((group / "cpu.cfs_period_us").read_text()) if quota > 0 else math.inf
    return math.inf


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def limits() -> dict[str, float]:
    """Every bound on the default number of threads, by name."""
    found: dict[str, float] = {
        "affinity": _affinity(),
        "NUMBA_NUM_THREADS": numba.config.NUMBA_NUM_THREADS,
    }
    quota = _cgroup_quota()
    if quota < math.inf:
        found["cgroup quota"] = max(1, math.ceil(quota))
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if first.isdigit() and int(first) > 0:
        found["OMP_NUM_THREADS"] = int(first)
    return found


def get_num_threads() -> int:
    """Number of threads that a large call uses, for the whole process.

    Returns
    -------
    int
        Inside `threads`, what it was given; else what `set_num_threads` was given; else the least
        of the CPUs this process may run on, the control group's quota, ``NUMBA_NUM_THREADS`` and
        ``OMP_NUM_THREADS``.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.get_num_threads() >= 1
    True
    """
    chosen = getattr(_mine, "chosen", None) or _chosen
    return int(min(limits().values())) if chosen is None else chosen


def _checked(k: object) -> int:
    k = errors.integer("k", k)
    most = int(limits()["NUMBA_NUM_THREADS"])
    if not 1 <= k <= most:
        raise ValueError(f"k should be from 1 to {most} (NUMBA_NUM_THREADS), got {k}")
    return k


def set_num_threads(k: int) -> None:
    """Set the number of threads that a large call uses, for the whole process.

    Results have the same bits whatever the number.

    Parameters
    ----------
    k : int
        1 to ``NUMBA_NUM_THREADS``.

    Raises
    ------
    TypeError, ValueError
        If `k` is not an integer or out of range.

    Examples
    --------
    >>> import fastbn
    >>> before = fastbn.get_num_threads()
    >>> fastbn.set_num_threads(1)
    >>> fastbn.get_num_threads()
    1
    >>> fastbn.set_num_threads(before)
    """
    global _chosen
    _chosen = _checked(k)


@contextmanager
def threads(k: int) -> Iterator[None]:
    """Set the number of threads that large calls of this Python thread use, for a ``with`` block.

    It goes before `set_num_threads`; other Python threads are not concerned. Blocks may be nested.

    Parameters
    ----------
    k : int
        1 to ``NUMBA_NUM_THREADS``.

    Raises
    ------
    TypeError, ValueError
        If `k` is not an integer or out of range.

    Examples
    --------
    >>> import fastbn
    >>> with fastbn.threads(1):
    ...     fastbn.get_num_threads()
    1
    """
    before, _mine.chosen = getattr(_mine, "chosen", None), _checked(k)
    try:
        yield
    finally:
        _mine.chosen = before


def decided_by() -> str:
    """What gave the number of threads."""
    if getattr(_mine, "chosen", None) is not None:
        return "threads"
    if _chosen is not None:
        return "set_num_threads"
    found = limits()
    return min(found, key=found.__getitem__)


def run(parallel: Callable, threads: int, kind: Kind, *args) -> bool:
    """Call ``parallel(threads, *args)`` if the team may be used and is free; whether it was.

    ``kind``: launches that take as long as this one does.
    """
    if _forked or pace.rests() or not _team.acquire(blocking=False):
        return False
    try:
        started, start = _launched, perf_counter()
        _launch(parallel, threads, args)
        if started:  # else it has compiled, too
            pace.note(kind, perf_counter() - start)
    finally:
        _team.release()
    return True


def _launch(parallel: Callable, threads: int, args: tuple) -> None:
    """Run on Numba's team; the caller's Numba settings and start method are as before after it."""
    global _launched
    first, _launched = not _launched, True
    method = multiprocessing.get_start_method(allow_none=True) if first else None
    if first:
        with forks.importing:
            numba.get_num_threads()  # starts the threading layer, whose modules it imports
    fewer = threads < numba.config.NUMBA_NUM_THREADS  # without a mask the whole team would wake
    theirs = numba.get_num_threads() if fewer else threads
    if fewer:
        numba.set_num_threads(threads)
    try:
        parallel(threads, *args)
    finally:
        if fewer:
            numba.set_num_threads(theirs)
        if first and method is None:
            # Numba's own lock for the team fixes multiprocessing's start method for the process.
            multiprocessing.set_start_method(None, force=True)


def _after_fork_in_child() -> None:
    """OpenMP kills a forked child that launches a team: such children compute alone."""
    global _forked
    _forked = _forked or _launched


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
