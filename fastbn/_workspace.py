"""The room that a pass works in: sums, coefficients, and a context: where all arrays lie."""

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
from numba.core import config

# Words of a context: addresses of arrays, the task, and whether channels have to be summed again.
PLAN, WORK, VALUES, STEPS, X, DY, OUT, WEIGHT, BIAS, STATS, DWEIGHT, DBIAS, TASK, LOST = range(14)
WORDS = 14
# Without a compiler they are the arrays themselves.
WORD: Any = object if config.DISABLE_JIT else np.uintp

# A workspace is kept for the next call: small ones always, of the others so many in all. New ones
# cost page faults: (50, 512) takes 31 us with a new one, 16 with one that is kept.
SMALL_BYTES, SPARE_BYTES, SPARES = 1 << 16, 1 << 20, 64


def place(array: np.ndarray) -> int:
    """Where an array's values lie."""
    return array.__array_interface__["data"][0]


def address(array: np.ndarray) -> Any:
    """A word for an array, which has to be kept elsewhere."""
    return array if config.DISABLE_JIT else place(array)


class Workspace(NamedTuple):
    """Room for a pass on so many threads."""

    threads: int
    context: np.ndarray
    kept: tuple[np.ndarray, ...]  # what the context has addresses of


_kept: OrderedDict[Any, None] = OrderedDict()  # pools with one that is not small, oldest first


class Pool:
    """The workspaces of one plan: so many float64 and so many values, and more for each thread.

    For ``each`` column that a thread sums at once it has two float64 and a value.
    """

    def __init__(self, plan: np.ndarray, work: int, values: int, each: int, dtype: np.dtype):
        self._plan, self._work, self._values, self._each = plan, work, values, each
        self._dtype = dtype
        self._bytes = 8 * work + dtype.itemsize * values, (16 + dtype.itemsize) * each
        self._spare: list[Workspace] = []

    def take(self, threads: int) -> Workspace:
        """Room for a pass."""
        try:
            found = self._spare.pop()
        except IndexError:
            found = None
        if found is not None and found.threads >= threads:
            return found
        work = _aligned(self._work + 2 * self._each * threads, np.dtype(np.float64))
        values = _aligned(self._values + self._each * threads, self._dtype)
        context = np.zeros(WORDS, WORD)
        for word, array in ((PLAN, self._plan), (WORK, work), (VALUES, values)):
            context[word] = address(array)
        return Workspace(threads, context, (work, values))

    def give(self, workspace: Workspace) -> None:
        """Take back what a pass no longer needs."""
        size = self._bytes[0] + self._bytes[1] * workspace.threads
        if self._spare or size > SPARE_BYTES:
            return
        self._spare.append(workspace)
        if size > SMALL_BYTES:
            _kept[self] = None
            _kept.move_to_end(self)
            if len(_kept) > SPARES:
                _kept.popitem(last=False)[0]._spare.clear()


def _aligned(n: int, dtype: np.dtype) -> np.ndarray:
    """An array that begins on a cache line: others take sums by columns from 74 to 146 us."""
    raw = np.empty(n + 64 // dtype.itemsize, dtype)
    start = -place(raw) % 64 // dtype.itemsize
    return raw[start : start + n]
