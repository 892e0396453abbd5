"""Memory of dropped outputs and workspaces, kept for the next ones.

The C library gives large blocks back to the system at once and others when it sees fit, and the
system clears every page of the next one: (256, 1024) float32 takes 339 us, not 120 (AMD EPYC,
2026-11). Here free blocks stay as they are within `WARM` bytes; more of them for a second, after
which, or beyond `HOT`, the oldest are marked as free (MADV_FREE): the system takes their pages
without asking if it needs memory, and else they are as good. `limit` holds for all of them. Nobody
waits for the second to pass: the next block that is dropped is the occasion to look.
"""

import ctypes
import math
import mmap
import os
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from time import monotonic
from typing import Any

import numpy as np

from . import forks
from .bounds import control_groups

# Bytes from which the memory of an array is kept: as many as the C library asks the system for one
# by one. Smaller ones faulted no pages, and take 1 us less (AMD EPYC, 2026-11).
MINIMUM = 128 << 10
SMALL = 16384  # values of any dtype that are no more
# Larger blocks lie on huge pages as far as they fill them: forward of 2 MB takes 43 us, on others
# 61; and marks of others take half a write's time, and make the next one twice as long (AMD EPYC,
# 2026-11).
PAGE, HUGE_PAGE = 4 << 10, 2 << 20
# Bytes of free blocks that stay as they are: for good, and until they have not been used for so
# many seconds. Marks stop the other threads once for each huge page, for 10 us: a tenth of the time
# of forward of 16 MB to 1 GB, and a tenth to a fifth of a loop over layers with 140 to 280 MB of
# outputs (AMD EPYC, 2 threads, 2026-11).
WARM, HOT, SECONDS = 64 << 20, 2 << 30, 1.0
SHARE = 8  # of the memory there is, at most one part in so many is kept; half of that hot
WORKSPACES = 32 << 20  # bytes of workspaces that wait for their next call

_FLOAT64 = np.dtype(np.float64)
_MARKS = hasattr(mmap, "MADV_FREE")  # whether the system can take what is marked as free


class _Block:
    """A piece of memory: a page more than so many bytes, from a page on."""

    __slots__ = ("memory", "room", "since", "start")

    def __init__(self, room: int):
        align = HUGE_PAGE if room >= HUGE_PAGE and _MARKS else PAGE
        try:
            self.memory = _map(room + PAGE + align)
        except OSError:
            raise MemoryError(f"no memory for an array of {room} bytes") from None
        first = address(self.memory)
        self.start = -first % align
        self.room, self.since = room, 0.0  # when it was dropped
        if room >= HUGE_PAGE:
            self.advise("MADV_HUGEPAGE")

    def advise(self, name: str) -> bool:
        """Tell the system something about the memory; False where it does not listen."""
        try:
            self.memory.madvise(getattr(mmap, name), self.start, self.room + PAGE)
        except (AttributeError, OSError):
            return False
        return True


def _map(size: int) -> Any:
    """Memory of the system's, or the C library's where nothing can be marked as free."""
    if _MARKS:
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    made: Any = np.empty(size, np.uint8)
    return memoryview(made)


def address(memory: Any) -> int:
    """Where writable memory begins, in a fifth of the time of an array's interface."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


# Free blocks by their room, those dropped first in front; `_dropped` are in no list yet. A signal
# handler, or an array that is collected, may call in between: any statement below leaves things as
# another call can go on from.
_warm: defaultdict[int, deque[_Block]] = defaultdict(deque)
_marked: defaultdict[int, deque[_Block]] = defaultdict(deque)
_warm_bytes = _marked_bytes = 0
_dropped: deque[_Block] = deque()
_due = 0.0  # when to look for blocks that have not been used for a while
_lock = threading.RLock()
forks.wait_for(_lock)


class _Owner(np.ndarray):
    """What the arrays in a block are views of: its end is that of the last of them."""

    __slots__ = ("block",)
    block: _Block

    def __del__(self):
        try:
            _dropped.append(self.block)
            _settle()
        except Exception:  # at the interpreter's end, anything may be gone
            return


def vector(count: int, dtype: np.dtype = _FLOAT64) -> np.ndarray:
    """`empty` in one dimension, which a small call has no need to ask for."""
    return np.empty(count, dtype) if count < SMALL else empty((count,), dtype)


def empty(shape: tuple[int, ...], dtype: np.dtype, place: int = 0) -> np.ndarray:
    """`np.empty`; large arrays begin at an address that equals ``place`` modulo 4 KiB."""
    size = math.prod(shape) * dtype.itemsize
    if size < MINIMUM:
        return np.empty(shape, dtype)
    room = room_for(size)
    block = _take(room) or _Block(room)
    owner = _Owner(shape, dtype, block.memory, block.start + place % PAGE)
    owner.block = block
    return owner.view(np.ndarray)


def room_for(size: int) -> int:
    """The bytes of a block that is large enough: up to an eighth more, so that sizes share them."""
    step = 1 << (size.bit_length() - 4)
    return -(-size // step) * step


def _take(room: int) -> _Block | None:
    """A free block, the one that was dropped last."""
    global _warm_bytes, _marked_bytes
    with _lock:
        try:
            block = _warm[room].pop()
            _warm_bytes -= room
        except IndexError:
            try:
                block = _marked[room].pop()
                _marked_bytes -= room
            except IndexError:
                return None
    if _dropped:
        _settle()
    return block


def _settle() -> None:
    """Put what was dropped into the lists. Never waits: who has the lock looks again after it."""
    global _warm_bytes
    while _dropped and _lock.acquire(False):
        try:
            while _dropped:
                block = _dropped.popleft()
                block.since = now = monotonic()
                _warm[block.room].append(block)
                _warm_bytes += block.room
                most = limit()
                if _warm_bytes + _marked_bytes > most or (
                    _warm_bytes > WARM and (now > _due or _warm_bytes > min(HOT, most // 2))
                ):
                    _shrink(now)
        finally:
            _lock.release()


def _shrink(now: float) -> None:
    """Mark the oldest blocks as free, and let go the oldest of those."""
    global _warm_bytes, _marked_bytes, _due
    most, _due = limit(), now + SECONDS / 2
    with suppress(ValueError, IndexError):  # another call has come in between, and done it all
        while _warm_bytes > min(WARM, most):
            oldest = _oldest(_warm)
            if _warm_bytes <= min(HOT, most // 2) and oldest[0].since > now - SECONDS:
                break
            block = oldest.popleft()
            _warm_bytes -= block.room
            if block.advise("MADV_FREE"):
                _marked[block.room].append(block)
                _marked_bytes += block.room
        while _warm_bytes + _marked_bytes > most:
            _marked_bytes -= _oldest(_marked).popleft().room


def _oldest(blocks: dict[int, deque[_Block]]) -> deque[_Block]:
    """The list with the block that was dropped first, at its front."""
    return min(filter(None, blocks.values()), key=lambda some: some[0].since)


_kept: OrderedDict[object, tuple[int, Callable[[], None]]] = OrderedDict()
_kept_bytes = 0


def keep(owner: object, size: int, forget: Callable[[], None]) -> bool:
    """Whether something of so many bytes may be kept; ``forget`` is called when it no longer may.

    An owner keeps one thing; what was kept first is the first to go.
    """
    global _kept_bytes
    if size > WORKSPACES:
        return False
    with _lock:
        _kept_bytes += size - _kept.pop(owner, (0, None))[0]
        _kept[owner] = size, forget
        while _kept_bytes > WORKSPACES:
            old, forget = _kept.popitem(last=False)[1]
            _kept_bytes -= old
            forget()
    return True


@cache
def limit() -> int:
    """The most bytes of free blocks: a share of what the machine, or its control group, grants."""
    found = []
    with suppress(AttributeError, OSError, ValueError):  # other systems
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for group in control_groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # "max"
                found.append(int((group / name).read_text()))
    return min(found, default=SHARE * WARM) // SHARE


def kept() -> int:
    """Bytes of free blocks, and of workspaces that wait for their next call."""
    return _warm_bytes + _marked_bytes + _kept_bytes
