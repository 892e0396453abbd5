"""The only place with Numba options.

``@block`` is for inner functions, ``@reduction`` for loops that sum, ``@kernel`` for entries.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numba
from numba.core import config
from numba.core.compiler_lock import global_compiler_lock

from . import _threads
from ._cache import DiskCache

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True}
# Reassociation vectorises sums; NaN and infinity keep their meaning (fastmath=True would not). Only
# where it is needed: elsewhere the compiler would be free to give one sum different bits in two
# places, such as a kernel that prefetches and one that does not.
_REDUCTION = {"reassoc", "nsz", "contract", "arcp"}
# Numba would fuse two neighbouring loops over threads into one: the second may then read what
# another thread has yet to write. Only prange is wanted, nothing implicit.
_PRANGE_ONLY: Any = dict.fromkeys(
    ("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion"), False
)

block = numba.njit(**_OPTIONS)
reduction = numba.njit(fastmath=_REDUCTION, **_OPTIONS)


def kernel(function: Callable) -> Callable:
    """Compile ``function(threads, *args)`` twice, and choose at each call.

    The result is called as ``kernel(large, *args)``. Blocks do all the work and are compiled once,
    so the serial and the parallel twin give the same bits.
    """
    twins = []
    for parallel in (False, _PRANGE_ONLY):
        twin = numba.njit(parallel=parallel, **_OPTIONS)(function)
        if not config.DISABLE_JIT:
            twin._cache = DiskCache(f"{function.__module__}.{function.__name__}.{bool(parallel)}")
        twins.append(twin)
    return partial(_threads.run, *twins)


if hasattr(os, "register_at_fork"):
    # A fork while another thread compiles would leave the child waiting for this lock for ever.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
