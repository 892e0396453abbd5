"""The only place with Numba options.

``@block`` is for inner functions, ``@glue`` for short ones that call others (each level of blocks
compiles anew what it calls), ``@reduction`` for loops that sum, ``@kernel`` and
``@small_kernel`` for entries.
"""

import os
from collections.abc import Callable
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

# Blocks are called by kernels only: without wrappers for Python and C they compile 15 % faster.
_INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, **_OPTIONS}
block = numba.njit(**_INNER)
glue = numba.njit(inline="always", **_INNER)
reduction = numba.njit(fastmath=_REDUCTION, **_INNER)


def kernel(function: Callable) -> Callable:
    """Compile ``function(threads, cut, work, values, *args)`` twice, and choose at each call.

    The result is called as ``kernel(plan, *args)``. Blocks do all the work and are compiled once,
    so the serial and the parallel twin give the same bits. What they need room for is allocated
    here: an error inside of a loop over threads would be lost.
    """
    serial, parallel = _compiled(function, False), _compiled(function, _PRANGE_ONLY)

    def call(plan, *args) -> None:
        threads = _threads.get_num_threads() if plan.large else 1
        workspace = plan.take(threads)
        cut = plan.array, workspace[1], workspace[2]
        if threads == 1:
            serial(1, *cut, *args)
        else:
            _threads.run(serial, parallel, threads, *cut, *args)
        plan.give(workspace)

    return call


def small_kernel(function: Callable) -> Callable:
    """Compile a function of its own, for what NumPy would take several calls to do."""
    return _compiled(function, False)


def _compiled(function: Callable, parallel: Any) -> Callable:
    compiled = numba.njit(parallel=parallel, no_cfunc_wrapper=True, **_OPTIONS)(function)
    if not config.DISABLE_JIT:
        compiled._cache = DiskCache(f"{function.__module__}.{function.__name__}.{bool(parallel)}")
    return compiled


if hasattr(os, "register_at_fork"):
    # A fork while another thread compiles would leave the child waiting for this lock for ever.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
