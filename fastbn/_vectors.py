"""Emits LLVM code for vectors of 64 bytes; `_intrinsics` makes operations of it."""

from llvmlite import ir
from numba import types
from numba.core import cgutils

VECTOR_BYTES = 64
# Processors tell addresses apart by their places in a page at first: a load just behind the place
# of a store waits for it.
PAGE_BYTES = 4096
UNROLL = 4  # registers of a run that are summed side by side
# Places of memory that are summed at once: at one, a core waits for memory. One thread sums
# (500000, 16) in 2.9 ms row by row, in 0.95 from 8 places. Of x and dy, more than 4 each would fall
# into one set of the nearest cache: (32, 256, 14, 14) takes 500 us from 8, 200 from 4.
STREAMS, STREAMS_OF_BOTH = 8, 4
CHAIN = 8  # terms of a sum in the data's own precision
_INT = ir.IntType(32)


def register_bytes(context) -> int:
    """Bytes of a vector register. Twice as many in eight sums spill: 34 ns a run of 196, not 15."""
    features = context.codegen().magic_tuple()[2].split(",")
    return VECTOR_BYTES if "+avx512f" in features else VECTOR_BYTES // 2


class Emitter:
    """Emits vector code for an intrinsic whose arguments are known by name."""

    def __init__(self, context, builder, names, signature, args, size=VECTOR_BYTES):
        self.context, self.builder = context, builder
        self.types = dict(zip(names, signature.args, strict=True))
        self.values = dict(zip(names, args, strict=True))
        dtype = self.types["x"].dtype if self.has("x") else self.types["dy"].dtype
        self.lanes = max(1, size // (dtype.bitwidth // 8))

    def streams(self):
        """How many runs or rows are summed at once."""
        return STREAMS_OF_BOTH if self.has("dy") else STREAMS

    def has(self, name):
        return self.types[name] != types.none

    def vector(self, element):
        return ir.VectorType(element, self.lanes)

    def pointer(self, name, offset):
        """Where the vector at ``name[offset]`` lies, and the size of an element."""
        dtype = self.types[name].dtype
        array = self.context.make_array(self.types[name])(
            self.context, self.builder, self.values[name]
        )
        shape = self.vector(self.context.get_data_type(dtype))
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
        undefined = ir.Constant(self.vector(scalar.type), ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(_INT, 0))
        everywhere = ir.Constant(self.vector(_INT), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, everywhere)

    def before(self, count):
        """A mask of the lanes with a number below ``count``."""
        numbers = ir.Constant(self.vector(_INT), list(range(self.lanes)))
        bound = self.splat(self.builder.trunc(count, _INT))
        return self.builder.icmp_unsigned("<", numbers, bound)

    def element(self, name, offset):
        """The value at ``name[offset]``, repeated."""
        array = self.context.make_array(self.types[name])(
            self.context, self.builder, self.values[name]
        )
        return self.splat(self.builder.load(self.builder.gep(array.data, [offset])))

    def double(self, value):
        """As float64."""
        wide = ir.VectorType(ir.DoubleType(), value.type.count)
        return value if value.type == wide else self.builder.fpext(value, wide)

    def multiply_add(self, a, b, c):
        """``a * b + c``, rounded once where the processor can: the same way at every place."""
        kind = ir.FunctionType(a.type, [a.type, a.type, a.type])
        name = f"llvm.fmuladd.v{self.lanes}{a.type.element.intrinsic_name}"
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, [a, b, c])

    def affine(self, offset, m, b, c, a):
        """``((dy +) (x - m) * b + c) (* a)``."""
        result = None
        if self.has("x"):
            centred = self.builder.fsub(self.load("x", offset), m)
            result = self.multiply_add(centred, b, c)
        if self.has("dy"):
            dy = self.load("dy", offset)
            result = self.builder.fmul(self.builder.fadd(dy, result) if result else dy, a)
        return result

    def terms(self, offset, shift, wide=False):
        """u and d of the sums of u and u * d: d = shift - x; u is ``dy``, or d without it.

        The other way round, x needs an instruction of its own to be loaded, and a sum 12 % longer.
        """
        convert = self.double if wide else lambda value: value
        d = self.builder.fsub(convert(shift), convert(self.load("x", offset)))
        return (convert(self.load("dy", offset)) if self.has("dy") else d), d

    def add(self, u, d, total=None, product=None):
        """Add u and u * d to sums, if there are any."""
        if total is None:
            return u, self.builder.fmul(u, d)
        return self.builder.fadd(total, u), self.multiply_add(u, d, product)

    def add_total(self, before, total, which):
        """Add the sum of u (0) or of u * d (1) to what was there, with d = x - shift."""
        turned = which == (1 if self.has("dy") else 0)
        return (self.builder.fsub if turned else self.builder.fadd)(before, total)

    def add_sums(self, total, product, j):
        """Add the sums of u and of u * d to those of the columns from j on, in float64."""
        for which, (name, value) in enumerate((("s1", total), ("s2", product))):
            new = self.add_total(self.load(name, j), self.double(value), which)
            self.store(new, name, j)

    def store(self, value, name, offset, stream=False):
        pointer, size = self.pointer(name, offset)
        instruction = self.builder.store(value, pointer)
        instruction.align = VECTOR_BYTES if stream else size
        if stream:
            one = self.builder.module.add_metadata([ir.Constant(_INT, 1)])
            instruction.set_metadata("nontemporal", one)

    def halves(self, value):
        """The sum of the two halves of a vector."""
        lanes = value.type.count // 2
        parts = (
            self.builder.shuffle_vector(
                value, value, ir.Constant(ir.VectorType(_INT, lanes), list(part))
            )
            for part in (range(lanes), range(lanes, 2 * lanes))
        )
        return self.builder.fadd(*parts)

    def total(self, value):
        """The sum of a vector's lanes, halves added to halves: the same order everywhere."""
        while value.type.count > 1:
            value = self.halves(value)
        return self.builder.extract_element(value, ir.Constant(_INT, 0))


class RunSum:
    """The loops of `sum_run` and `sum_runs`: sums side by side of `CHAIN` terms, then float64."""

    def __init__(self, emit, exact, unroll=UNROLL):
        self.emit, self.builder, self.exact = emit, emit.builder, exact
        self.index = emit.values["o"].type
        self.at = self._variable(self.index, emit.values["o"])
        self.shift = emit.splat(emit.values["shift"])
        element = self.shift.type.element if not exact else ir.DoubleType()
        self.zero = ir.Constant(emit.vector(element), [0.0] * emit.lanes)
        # Halves, so that they and eight sums fit 16 registers: spilt, a run of 196 takes 22 ns, not
        # 17.
        half = emit.lanes // 2
        double = ir.Constant(ir.VectorType(ir.DoubleType(), half), [0.0] * half)
        self.sums = [self._variable(self.zero.type, self.zero) for _ in range(2 * unroll)]
        self.totals = [self._variable(double.type, double) for _ in range(2)]

    def _variable(self, kind, value):
        variable = cgutils.alloca_once(self.builder, kind)
        self.builder.store(value, variable)
        return variable

    def number(self, value):
        return ir.Constant(self.index, value)

    def step(self, count, keep=None):
        """Add so many vectors to as many sums, and move on; of one, only the lanes to keep."""
        builder, at = self.builder, self.builder.load(self.at)
        for k in range(count):
            offset = builder.add(at, self.number(k * self.emit.lanes))
            u, d = self.emit.terms(offset, self.shift, self.exact)
            if keep is not None:
                u, d = (builder.select(keep, value, self.zero) for value in (u, d))
            s1, s2 = self.sums[2 * k], self.sums[2 * k + 1]
            builder.store(builder.fadd(builder.load(s1), u), s1)
            builder.store(self.emit.multiply_add(u, d, builder.load(s2)), s2)
        builder.store(builder.add(at, self.number(count * self.emit.lanes)), self.at)

    def flush(self):
        """Add the sums to the totals, and begin anew."""
        builder = self.builder
        for which in range(2):
            value = None
            for variable in self.sums[which::2]:
                part = builder.load(variable)
                value = part if value is None else builder.fadd(value, part)
                builder.store(self.zero, variable)
            self._add(value, which)

    def together(self, distance, count, keep=None):
        """Add one or two vectors of each stream to the totals, and move on."""
        builder, start = self.builder, self.builder.load(self.at)
        sums, place = [(None, None), (None, None)], start
        for k in range(self.emit.streams() * count):
            at = builder.add(place, self.number(k % count * self.emit.lanes))
            u, d = self.emit.terms(at, self.shift, self.exact)
            if keep is not None:
                u, d = (builder.select(keep, value, self.zero) for value in (u, d))
            sums[k % 2] = self.emit.add(u, d, *sums[k % 2])
            if (k + 1) % count == 0:
                place = builder.add(place, distance)
        for which, (one, other) in enumerate(zip(*sums, strict=True)):
            self._add(builder.fadd(one, other), which)
        builder.store(builder.add(start, self.number(count * self.emit.lanes)), self.at)

    def _add(self, value, which):
        """Add a vector to a total, in float64."""
        total, value = self.totals[which], self.emit.double(self.emit.halves(value))
        new = self.emit.add_total(self.builder.load(total), value, which)
        self.builder.store(new, total)

    def results(self):
        """The totals' lanes, added up."""
        return [self.emit.total(self.builder.load(total)) for total in self.totals]

    def rest(self, n):
        """Move back to the last vector of n values that leave a rest: which lanes are new."""
        builder, lanes = self.builder, self.number(self.emit.lanes)
        done = builder.sub(lanes, builder.urem(n, lanes))
        builder.store(builder.sub(builder.load(self.at), done), self.at)
        return builder.not_(self.emit.before(done))
