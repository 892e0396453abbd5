"""How many threads a kernel gets, and whether it may launch them now.

One team at a time: a caller that finds the team busy computes alone, with the same bits. That keeps
Numba's ``workqueue`` layer from aborting the process and bounds oversubscription on every layer.
"""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from time import perf_counter

import numba

from . import bounds, errors, forks, layer, neighbours
from .pace import Kind, Pace

_team = threading.Lock()
pace = Pace()
_chosen: int | None = None
_mine = threading.local()  # `chosen`: what this Python thread has asked for
_launched = False  # has this process, or the one that it was forked from, started a team?
_forked = False


@cache
def limits() -> dict[str, float]:
    """Every bound on the default number of threads, by name."""
    return bounds.found(numba.config.NUMBA_NUM_THREADS)


@cache
def _default() -> int:
    return int(min(limits().values()))


def _number() -> int:
    """The number of threads as long as threadpoolctl limits nothing."""
    return getattr(_mine, "chosen", None) or _chosen or _default()


neighbours.number = _number


def get_num_threads() -> int:
    """Number of threads that a large call uses, for the whole process.

    Returns
    -------
    int
        Inside `threads`, what it was given; else what `set_num_threads` was given; else the least
        of the CPUs this process may run on, the control group's quota, ``NUMBA_NUM_THREADS`` and
        ``OMP_NUM_THREADS``. Never more than what threadpoolctl allows.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.get_num_threads() >= 1
    True
    """
    threads = getattr(_mine, "chosen", None) or _chosen or _default()
    # Each large call asks: 0.7 us if threadpoolctl, which few have loaded, is asked, too.
    return neighbours.limited(threads) if "threadpoolctl" in sys.modules else threads


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
def threads(k: int, *, default: bool = False) -> Iterator[None]:
    """Set the number of threads that large calls of this Python thread use, for a ``with`` block.

    It goes before `set_num_threads`; other Python threads are not concerned. Blocks may be nested.

    Parameters
    ----------
    k : int
        1 to ``NUMBA_NUM_THREADS``.
    default : bool, default False
        For libraries that call fastbn with a number of their own: `k` may be any from 1 on, and is
        one more bound on the number that a large call uses where nobody has set one.

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
    before = getattr(_mine, "chosen", None)
    k = errors.whole("k", k, 1) if default else _checked(k)
    if not default:
        _mine.chosen = k
    elif before is None and _chosen is None:
        _mine.chosen = min(k, _default())
    try:
        yield
    finally:
        _mine.chosen = before


def decided_by() -> str:
    """What gave the number of threads."""
    if get_num_threads() < _number():
        return "threadpoolctl"
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
            layer.start()  # imports modules
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
