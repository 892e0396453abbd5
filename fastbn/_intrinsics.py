"""Explicit vectors of 64 bytes, for what LLVM's loop vectoriser does badly or not at all.

Each operation is one source for a whole vector and for a single value. ``affine`` computes a
vector of an output; a vector that overlaps its neighbour replaces the scalar remainder, so rows of
49 values, float32, take 40 us instead of 81 at (32, 512, 7, 7), where a copy takes 35.
``affine_stream`` stores past the caches: a forward pass at (32, 64, 112, 112) takes 5.8 ms instead
of 6.9 (through a buffer in L1 it gains nothing). ``accumulate`` adds rows to their columns' sums.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

VECTOR_BYTES = 64
_INT = ir.IntType(32)


class _Emitter:
    """Emits vector code for an intrinsic whose arguments are known by name."""

    def __init__(self, context, builder, names, signature, args, vector):
        self.context, self.builder = context, builder
        self.types = dict(zip(names, signature.args, strict=True))
        self.values = dict(zip(names, args, strict=True))
        dtype = self.types["x"].dtype if self.has("x") else self.types["dy"].dtype
        self.lanes = VECTOR_BYTES // (dtype.bitwidth // 8) if vector else 1

    def has(self, name):
        return self.types[name] != types.none

    def pointer(self, name, offset):
        """Where the vector at ``name[offset]`` lies, and the size of an element."""
        dtype = self.types[name].dtype
        array = self.context.make_array(self.types[name])(
            self.context, self.builder, self.values[name]
        )
        shape = ir.VectorType(self.context.get_data_type(dtype), self.lanes)
        address = self.builder.gep(array.data, [offset])
        return self.builder.bitcast(address, shape.as_pointer()), dtype.bitwidth // 8

    def load(self, name, offset):
        """The vector at ``name[offset]``; a scalar is repeated."""
        if not isinstance(self.types[name], types.Array):
            return self.splat(self.values[name])
        pointer, size = self.pointer(name, offset)
        value = self.builder.load(pointer)
        value.align = size
        return value

    def splat(self, scalar):
        undefined = ir.Constant(ir.VectorType(scalar.type, self.lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(_INT, 0))
        everywhere = ir.Constant(ir.VectorType(_INT, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, everywhere)

    def double(self, value):
        """As float64."""
        wide = ir.VectorType(ir.DoubleType(), self.lanes)
        return value if value.type == wide else self.builder.fpext(value, wide)

    def multiply_add(self, a, b, c):
        """``a * b + c``, rounded once where the processor can: the same way at every place."""
        kind = ir.FunctionType(a.type, [a.type, a.type, a.type])
        name = f"llvm.fmuladd.v{self.lanes}{a.type.element.intrinsic_name}"
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, [a, b, c])

    def store(self, value, name, offset, stream=False):
        pointer, size = self.pointer(name, offset)
        instruction = self.builder.store(value, pointer)
        instruction.align = VECTOR_BYTES if stream else size
        if stream:
            one = self.builder.module.add_metadata([ir.Constant(_INT, 1)])
            instruction.set_metadata("nontemporal", one)

    def prefetch(self, name, offset):
        """Ask for the cache line; an address past the end does no harm."""
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _INT, _INT, _INT])
        function = self.builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        address = self.builder.bitcast(self.pointer(name, offset)[0], byte)
        read, keep, data = _INT(0), _INT(3), _INT(1)
        self.builder.call(function, [address, read, keep, data])


def _make_affine(vector: bool, stream: bool):
    """``out[o:] = ((dy[o:] +) (x[o:] - m) * b + c) (* a)``.

    Without ``dy`` there is no factor ``a``; without ``x`` the result is ``dy * a``. The
    coefficients are scalars, or arrays that are read from ``p``. A streaming store needs an
    aligned address.
    """

    @intrinsic
    def affine(typing, out, x, dy, o, m, b, c, a, p):
        names = ("out", "x", "dy", "o", "m", "b", "c", "a", "p")

        def codegen(context, builder, signature, args):
            emit = _Emitter(context, builder, names, signature, args, vector)
            o, p = emit.values["o"], emit.values["p"]
            result = None
            if emit.has("x"):
                centred = builder.fsub(emit.load("x", o), emit.load("m", p))
                result = emit.multiply_add(centred, emit.load("b", p), emit.load("c", p))
            if emit.has("dy"):
                dy = emit.load("dy", o)
                total = dy if result is None else builder.fadd(dy, result)
                result = builder.fmul(total, emit.load("a", p))
            emit.store(result, "out", o, stream)
            return context.get_dummy_value()

        return types.void(out, x, dy, types.uintp, m, b, c, a, types.uintp), codegen

    return affine


def _rows_at_once(with_dy: bool) -> int:
    return 4 if with_dy else 8


def _make_accumulate(vector: bool, several: bool, ahead: bool = False):
    """Add d and d * d, d = x - shift, of a row to the sums of its columns from ``j`` on.

    With ``dy``: dy and dy * d. A row has ``width`` values, the first begins at ``o``. In float64
    for every dtype: nothing overflows and nothing cancels. ``several`` takes eight rows, or four
    with ``dy``: eight lines of memory, as more would not fit one set of an L1 cache when rows are a
    multiple of 4 KB apart. ``ahead`` prefetches the next rows.
    """

    @intrinsic
    def accumulate(typing, x, dy, o, width, shift, s1, s2, j):
        names = ("x", "dy", "o", "width", "shift", "s1", "s2", "j")

        def codegen(context, builder, signature, args):
            emit = _Emitter(context, builder, names, signature, args, vector)
            width, j = emit.values["width"], emit.values["j"]
            rows = _rows_at_once(emit.has("dy")) if several else 1
            offset = builder.add(emit.values["o"], j)
            shift = emit.load("shift", j)
            next_rows = builder.mul(width, ir.Constant(width.type, rows))
            total = squares = None
            for _ in range(rows):
                d = builder.fsub(emit.double(emit.load("x", offset)), shift)
                u = emit.double(emit.load("dy", offset)) if emit.has("dy") else d
                if total is None:
                    total, squares = u, builder.fmul(u, d)
                else:
                    total, squares = builder.fadd(total, u), emit.multiply_add(u, d, squares)
                if ahead:
                    emit.prefetch("x", builder.add(offset, next_rows))
                    if emit.has("dy"):
                        emit.prefetch("dy", builder.add(offset, next_rows))
                offset = builder.add(offset, width)
            emit.store(builder.fadd(emit.load("s1", j), total), "s1", j)
            emit.store(builder.fadd(emit.load("s2", j), squares), "s2", j)
            return context.get_dummy_value()

        index = types.uintp
        return types.void(x, dy, index, index, shift, s1, s2, index), codegen

    return accumulate


def _make_fence():
    """Streaming stores are ordered with others only by a fence."""

    @intrinsic
    def fence(typing):
        def codegen(context, builder, signature, args):
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return types.void(), codegen

    return fence


def _lanes(array, vector: bool) -> int:
    return VECTOR_BYTES // array.itemsize if vector else 1


def _python_affine(vector: bool):
    def affine(out, x, dy, o, m, b, c, a, p):
        here = slice(int(o), int(o) + _lanes(out, vector))
        there = slice(int(p), int(p) + _lanes(out, vector))
        m, b, c, a = (v[there] if np.ndim(v) else v for v in (m, b, c, a))
        result = 0 if x is None else (x[here] - m) * b + c
        out[here] = result if dy is None else (dy[here] + result) * a

    return affine


def _python_accumulate(vector: bool, several: bool):
    def accumulate(x, dy, o, width, shift, s1, s2, j):
        rows = _rows_at_once(dy is not None) if several else 1
        here = slice(int(j), int(j) + _lanes(x, vector))
        for row in range(rows):
            start = int(o) + row * int(width)
            there = slice(start + here.start, start + here.stop)
            d = x[there].astype(np.float64) - shift[here]
            u = d if dy is None else dy[there].astype(np.float64)
            s1[here] += u
            s2[here] += u * d

    return accumulate


def _no_fence():
    """Plain Python has no streaming stores to order."""


if config.DISABLE_JIT:
    affine = affine_stream = _python_affine(vector=True)
    affine_one = _python_affine(vector=False)
    accumulate_rows = accumulate_rows_ahead = _python_accumulate(vector=True, several=True)
    accumulate_rows_one = _python_accumulate(vector=False, several=True)
    accumulate_row = _python_accumulate(vector=True, several=False)
    accumulate_row_one = _python_accumulate(vector=False, several=False)
    fence = _no_fence
else:
    affine = _make_affine(vector=True, stream=False)
    affine_stream = _make_affine(vector=True, stream=True)
    affine_one = _make_affine(vector=False, stream=False)
    accumulate_rows = _make_accumulate(vector=True, several=True)
    accumulate_rows_ahead = _make_accumulate(vector=True, several=True, ahead=True)
    accumulate_rows_one = _make_accumulate(vector=False, several=True)
    accumulate_row = _make_accumulate(vector=True, several=False)
    accumulate_row_one = _make_accumulate(vector=False, several=False)
    fence = _make_fence()
