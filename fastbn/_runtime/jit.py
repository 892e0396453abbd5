"""The only place with Numba options, and with what depends on how Numba calls compiled code.

``@kernel`` is for what Python calls, and a `Step` for what a team of threads calls: a C function
behind an address, so that one parallel kernel launches all of them, and nothing is compiled twice.
They call functions of three kinds. LLVM puts ``@inner`` ones into their callers: a call costs up to
20 ns, most of it for arrays as arguments, and a channel may take less. ``@apart`` stays a function
of its own, for what is long, or rare, or called from several places. ``@inlined`` becomes part of
the one function that calls it already for Numba (each level of functions compiles anew what it
calls).

None has fast-math: the compiler may neither change the order of a sum nor choose what is rounded
once, or bits would follow the processor.

Compiled code gets memory as addresses. `array_at` and `record_at` say what lies there; without a
compiler (``NUMBA_DISABLE_JIT=1``) the same names work, and check bounds and alignment.
"""

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.ma  # Numba's first call would import it, where no fork waits
from llvmlite import ir
from numba import _dynfunc, from_dtype, types
from numba.core import config
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.extending import intrinsic, lower_builtin, type_callable
from numba.np.arrayobj import populate_array

from . import memory
from .cache import DiskCache

INTERPRETED = bool(config.DISABLE_JIT)  # no compiler: kernels are plain Python

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True}
# Only prange is wanted, nothing implicit; and no loop is fused with its neighbour, which may read
# what another thread has yet to write.
_PRANGE_ONLY: Any = dict.fromkeys(
    ("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion"), False
)

# Called by kernels only: without wrappers for Python and C they compile 15 % faster (AMD EPYC,
# 2026-11).
_INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, **_OPTIONS}
inner = numba.njit(forceinline=True, **_INNER)
apart = numba.njit(**_INNER)
inlined = numba.njit(inline="always", **_INNER)

caches: list[DiskCache] = []  # of everything that Python or a team calls


def _cache(name: str) -> DiskCache:
    caches.append(DiskCache(name))
    return caches[-1]


@contextmanager
def compiling() -> Iterator[None]:
    """Alone, as Numba compiles, and without the garbage collector.

    Its looks at all of Numba are a tenth of compiling's time (AMD EPYC, 2026-11).
    """
    with global_compiler_lock:
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()


def kernel(function: Callable, parallel: bool = False) -> Callable:
    """Compile a function for Python to call."""
    options = {"parallel": _PRANGE_ONLY if parallel else False, "no_cfunc_wrapper": True}
    compiled = numba.njit(**options, **_OPTIONS)(function)
    if not INTERPRETED:
        compiled._cache = _cache(f"{function.__module__}.{function.__name__}.{parallel}")
        compiled.compile = compiling()(compiled.compile)
    return compiled


@contextmanager
def _one_piece(name: str) -> Iterator[None]:
    """Have Numba optimise and translate one function only, of those that it compiles meanwhile.

    What that one calls becomes part of its code. Code of their own, which nobody calls, takes a
    third of the time to compile a step (AMD EPYC, 2026-11).
    """
    context, codegen = cpu_target.target_context, cpu_target.target_context.codegen()
    # Numba's own, whoever has put something in their places.
    executable = partial(type(context).get_executable, context)
    new_library = partial(type(codegen).create_library, codegen)

    def get_executable(library, fndesc, env):
        if fndesc.qualname == name:
            return executable(library, fndesc, env)
        module, called = fndesc.lookup_module(), fndesc.qualname.split(".")[-1]
        return _dynfunc.make_function(module, called, "never called", 0, env, (library,))

    def create_library(named, **options):
        library = new_library(named, **options)
        if named != name:
            library._optimize_final_module = library._finalize_specific = lambda: None
        return library

    before = context.__dict__.get("get_executable"), codegen.__dict__.get("create_library")
    context.get_executable, codegen.create_library = get_executable, create_library
    try:
        yield
    finally:
        del context.get_executable, codegen.create_library
        if before[0]:  # a signal handler compiles while a step is compiled
            context.get_executable, codegen.create_library = before


_functions: dict[int, Callable] = {}  # of steps, by address, where there is no compiler


class Step:
    """``function(t, exact, first, last, context)``, compiled when its address is first asked for.

    All are words, and so is the result; ``context`` is an address, to be read with `record_at`.
    """

    def __init__(self, name: str, function: Callable):
        # Part of the symbol: code from the cache and code that is compiled now are told apart by a
        # number that each process counts from 1, and would be mixed up under one name.
        function.__qualname__ = name
        self._name, self._function = name, function
        self._compiled: Any = None

    @property
    def address(self) -> int:
        """What `call_step` takes."""
        if INTERPRETED:
            _functions[id(self)] = self._function
            return id(self)
        with compiling():
            if self._compiled is None:
                signature = (types.uintp,) * 5, types.intp
                compiled: Any = CFunc(self._function, signature, locals={}, options=_OPTIONS)
                compiled._cache = _cache(self._name)
                with _one_piece(self._name):
                    compiled.compile()
                self._compiled = compiled
        return self._compiled.address


# Where there is no compiler: bytes of what lies at an address, of the array asked for last.
_sizes: dict[int, int] = {}


def data_pointer(array: np.ndarray) -> int:
    """The address of an array's first value: a name for Python and for compiled code."""
    if not INTERPRETED:
        return memory.address(array)
    address = array.__array_interface__["data"][0]
    _sizes[address] = array.nbytes
    return address


@type_callable(data_pointer)
def _type_of_data_pointer(context):
    return lambda array: types.uintp if isinstance(array, types.Array) else None


@lower_builtin(data_pointer, types.Array)
def _compiled_data_pointer(target, builder, signature, args):
    data = target.make_array(signature.args[0])(target, builder, args[0]).data
    return builder.ptrtoint(data, target.get_value_type(types.uintp))


def flat_array(target, builder, kind, pointer, size):
    """A flat array of memory that others own."""
    data = target.get_data_type(kind.dtype)
    itemsize = target.get_constant(types.intp, target.get_abi_sizeof(data))
    result = target.make_array(kind)(target, builder)
    populate_array(result, pointer, [size], [itemsize], itemsize, meminfo=None)
    return result._getvalue()


class Field(NamedTuple):
    """Where `gather` finds a number, or the address of an array of one of two sizes."""

    name: str  # in the record
    kind: Any
    size: int | None  # 0 or 1; None: a number


def gather(source: np.dtype, target: Any, **fields) -> Callable:
    """A function ``(address, size, other size)``: a named tuple of what a record has, or points to.

    Fields are of type `Field`, or constants; those that are not named are None. One operation
    compiles in a fraction of the time of one for each array.
    """
    asked = [fields.get(name) for name in target._fields]
    if INTERPRETED:

        def gathered(address, *sizes):
            record = record_at(address, source)
            return target(*(_found(record, field, sizes) for field in asked))

        return gathered

    @intrinsic
    def gathered_from(typing, address, size, other):
        result = types.BaseTuple.from_types([_type_of(field) for field in asked], target)

        def codegen(context, builder, signature, args):
            values = [_loaded(context, builder, source, *args, field) for field in asked]
            return context.make_tuple(builder, result, values)

        return result(types.uintp, types.uintp, types.uintp), codegen

    return gathered_from


def _found(record, field, sizes):
    if not isinstance(field, Field):
        return field
    value, kind = getattr(record, field.name), field.kind
    return kind(value) if field.size is None else array_at(value, sizes[field.size], kind)


def _type_of(field):
    if not isinstance(field, Field):
        return types.none if field is None else types.boolean
    kind = from_dtype(np.dtype(field.kind))
    return kind if field.size is None else types.Array(kind, 1, "C")


def _loaded(context, builder, source, address, size, other, field):
    """A field's value in compiled code."""
    kind = _type_of(field)
    if not isinstance(field, Field):
        return context.get_constant_generic(builder, kind, field)
    held, offset = source.fields[field.name][:2]
    held, place = from_dtype(held), builder.add(address, ir.Constant(address.type, offset))
    value = builder.load(builder.inttoptr(place, context.get_data_type(held).as_pointer()))
    if field.size is None:
        return context.cast(builder, value, held, kind)
    pointer = builder.inttoptr(value, context.get_data_type(kind.dtype).as_pointer())
    return flat_array(context, builder, kind, pointer, (size, other)[field.size])


def _compiled_access():
    """(call_step, array_at, record_at, span) for compiled code."""

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
            return flat_array(target, builder, signature.return_type, pointer, args[1])

        return types.Array(kind.dtype, 1, "C")(types.uintp, types.uintp, kind), codegen

    @intrinsic
    def record_at(typing, address, kind):
        def codegen(target, builder, signature, args):
            return builder.inttoptr(args[0], target.get_value_type(signature.return_type))

        return kind.dtype(types.uintp, kind), codegen

    @intrinsic
    def span(typing, array, start, size):
        def codegen(target, builder, signature, args):
            data = target.make_array(array)(target, builder, args[0]).data
            return flat_array(target, builder, array, builder.gep(data, [args[1]]), args[2])

        return array(array, types.uintp, types.uintp), codegen

    return call_step, array_at, record_at, span


class _Record:
    """The fields of a record that lies at an address, to read and write."""

    def __init__(self, address, kind):
        object.__setattr__(self, "_fields", array_at(address, 1, kind))

    def __getattr__(self, name):
        return self._fields[name][0]

    def __setattr__(self, name, value):
        self._fields[name][0] = value


if INTERPRETED:

    def call_step(step, *arguments):
        """Call a step."""
        return _functions[int(step)](*arguments)

    def array_at(address, size, kind):
        """The array of ``size`` values of a kind that lies there."""
        kind, address, size = np.dtype(kind), int(address), int(size)
        nbytes = size * kind.itemsize
        if address % kind.alignment or nbytes > _sizes.get(address, 0):
            raise IndexError(f"no {size} values of {kind} lie at {address}")
        return np.ndarray(size, kind, (ctypes.c_char * nbytes).from_address(address))

    record_at = _Record

    def span(array, start, size):
        """A part of an array: compiles, and runs, in a fraction of a slice's time."""
        start, stop = int(start), int(start) + int(size)
        if not 0 <= start <= stop <= array.size:
            raise IndexError(f"values {start} to {stop} of an array of {array.size}")
        return array[start:stop]

else:
    call_step, array_at, record_at, span = _compiled_access()
