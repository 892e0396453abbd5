"""The only place with Numba options, and with what depends on how Numba calls compiled code.

``@block`` is for inner functions, ``@glue`` for those that one function calls (they become part of
it, where each level of blocks compiles anew what it calls), ``@reduction`` for loops that sum,
``@kernel`` for what Python calls, and ``Step`` for what a team of threads calls: C functions behind
an address, so that one parallel kernel launches all of them, and nothing is compiled twice.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy.ma  # noqa: F401  Numba's first call would import it, where no fork waits
from llvmlite import ir
from numba import types
from numba.core import config
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from ._cache import DiskCache

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True}
# Reassociation vectorises sums; NaN and infinity keep their meaning (fastmath=True would not). Only
# where it is needed: elsewhere the compiler would be free to give one sum different bits in two
# places, such as a kernel that prefetches and one that does not.
_REDUCTION = {"reassoc", "nsz", "contract", "arcp"}
# Only prange is wanted, nothing implicit; and no loop is fused with its neighbour, which may read
# what another thread has yet to write.
_PRANGE_ONLY: Any = dict.fromkeys(
    ("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion"), False
)

# Blocks are called by kernels only: without wrappers for Python and C they compile 15 % faster.
_INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, **_OPTIONS}
block = numba.njit(**_INNER)
glue = numba.njit(inline="always", **_INNER)
reduction = numba.njit(fastmath=_REDUCTION, **_INNER)

caches: list[DiskCache] = []  # of everything that Python or a team calls


def _cache(name: str) -> DiskCache:
    caches.append(DiskCache(name))
    return caches[-1]


def kernel(function: Callable, parallel: bool = False) -> Callable:
    """Compile a function for Python to call."""
    options = {"parallel": _PRANGE_ONLY if parallel else False, "no_cfunc_wrapper": True}
    compiled = numba.njit(**options, **_OPTIONS)(function)
    if not config.DISABLE_JIT:
        compiled._cache = _cache(f"{function.__module__}.{function.__name__}.{parallel}")
    return compiled


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector: its looks at all of Numba are a tenth of compiling's time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class Step:
    """``function(t, exact, first, last, context)``, compiled when its address is first asked for.

    All are words, and ``context`` is an address, to be read with `array_at`; so is the result.
    """

    def __init__(self, name: str, function: Callable):
        # Part of the symbol: code from the cache and code that is compiled now are told apart by a
        # number that each process counts from 1, and would be mixed up under one name.
        function.__qualname__ = name
        self._name, self._function = name, function
        self._compiled: Any = None

    @property
    def address(self) -> Any:
        """What `call_step` takes."""
        if config.DISABLE_JIT:
            return self._function
        with global_compiler_lock, _uncollected():
            if self._compiled is None:
                signature = (types.uintp,) * 5, types.intp
                compiled: Any = CFunc(self._function, signature, locals={}, options=_OPTIONS)
                compiled._cache = _cache(self._name)
                compiled.compile()
                self._compiled = compiled
        return self._compiled.address


def _flat(target, builder, kind, pointer, size):
    """A flat array of memory that others own."""
    data = target.get_data_type(kind.dtype)
    itemsize = target.get_constant(types.intp, target.get_abi_sizeof(data))
    result = target.make_array(kind)(target, builder)
    populate_array(result, pointer, [size], [itemsize], itemsize, meminfo=None)
    return result._getvalue()


def _compiled_access():
    """(call_step, array_at, span, address_of) for compiled code."""

    @intrinsic
    def call_step(typing, step, t, exact, first, last, context):
        def codegen(target, builder, signature, args):
            word = target.get_value_type(types.uintp)
            kind = ir.FunctionType(word, [word] * 5)
            return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

        return types.intp(*[types.uintp] * 6), codegen

    @intrinsic
    def array_at(typing, address, size, kind):
        def codegen(target, builder, signature, args):
            data = target.get_data_type(signature.return_type.dtype).as_pointer()
            pointer = builder.inttoptr(args[0], data)
            return _flat(target, builder, signature.return_type, pointer, args[1])

        return types.Array(kind.dtype, 1, "C")(types.uintp, types.uintp, kind), codegen

    @intrinsic
    def span(typing, array, start, size):
        def codegen(target, builder, signature, args):
            data = target.make_array(array)(target, builder, args[0]).data
            return _flat(target, builder, array, builder.gep(data, [args[1]]), args[2])

        return array(array, types.uintp, types.uintp), codegen

    @intrinsic
    def address_of(typing, array):
        def codegen(target, builder, signature, args):
            data = target.make_array(array)(target, builder, args[0]).data
            return builder.ptrtoint(data, target.get_value_type(types.uintp))

        return types.uintp(array), codegen

    return call_step, array_at, span, address_of


if config.DISABLE_JIT:

    def call_step(step, *arguments):
        """Call a step."""
        return step(*arguments)

    def array_at(address, size, kind):
        """The array of ``size`` values of a kind that lies there."""
        return address

    def span(array, start, size):
        """A part of an array: compiles, and runs, in a fraction of a slice's time."""
        return array[start : start + size]

    def address_of(array):
        """Where an array's values lie."""
        return array

else:
    call_step, array_at, span, address_of = _compiled_access()
