"""Memory for large outputs, kept for the next output when the last array in it is gone.

The C library gives blocks of 32 MB and more back to the system at once, and the system clears every
page of the next one: half the time of a forward pass that allocates 103 MB (12.5 ms, where one into
an array that exists takes 6.1; AMD EPYC, 2026-11). What is kept here is marked as free (MADV_FREE):
under memory pressure the system takes it without asking.
"""

import mmap
import os
from contextlib import suppress

import numpy as np

MINIMUM = 32 << 20  # bytes from which the C library does not keep blocks
PAGE = 2 << 20  # a huge page
KEEP = 8  # of the machine's memory, at most one part in so many is kept

_free: dict[int, list[mmap.mmap]] = {}


class _Block:
    """The owner of an output's memory."""

    def __init__(self, mapping: mmap.mmap):
        self._mapping = mapping
        self.__array_interface__ = np.frombuffer(mapping, np.uint8).__array_interface__

    def __del__(self):
        with suppress(Exception):  # at the interpreter's end, anything may be gone
            _keep(self._mapping)


def empty(size: int) -> np.ndarray | None:
    """An array of bytes that begins on a page; None where the C library does as well."""
    if size < MINIMUM or not hasattr(mmap, "MADV_FREE") or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    size = -(-size // PAGE) * PAGE
    try:
        mapping = _free[size].pop()
    except (KeyError, IndexError):
        mapping = _map(size)
    return np.asarray(_Block(mapping))


def _map(size: int) -> mmap.mmap:
    try:
        mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        raise MemoryError(f"no memory for an array of {size} bytes") from None
    with suppress(OSError):  # a kernel without huge pages
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return mapping


def _keep(mapping: mmap.mmap) -> None:
    """Lists are changed by single operations only: any thread, and the collector, may come here."""
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // KEEP
    kept = sum(size * len(mappings) for size, mappings in list(_free.items()))
    if kept + len(mapping) <= limit:
        mapping.madvise(mmap.MADV_FREE)
        _free.setdefault(len(mapping), []).append(mapping)
