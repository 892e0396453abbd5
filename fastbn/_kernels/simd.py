"""Explicit vectors of 64 bytes, for what LLVM's loop vectoriser does badly or not at all.

The lanes are the same whatever the registers: LLVM takes one of 64 bytes, two of 32 or four of 16.
So are the terms of each lane, the tree that adds lanes up, and what is rounded once: the same bits
on every processor (docs/order.md).

``affine`` computes a vector of an output; ``affine_nontemporal`` stores it past the caches,
``affine_twice`` computes two with the same coefficients, and ``affine_pair`` serves a vector in
which one channel's run ends and the next begins, so that all of them lie on cache lines.
``add_rows`` and ``add_few`` add rows to the sums of their columns, ``sum_run`` sums runs one after
the other and ``sum_interleaved`` several at once. ``mean_near`` finds a value to subtract, and
``repeat`` widens a coefficient.

Sums of a handful of terms are taken in the data's own precision and added up in float64: float32
data then run at the speed of a bare read pass, where converting each value first takes twice as
long in the caches. The ``exact`` variants convert first, for what float32 cannot square.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .._runtime.info import fuses
from .._runtime.jit import INTERPRETED, data_pointer, inner, record_at
from . import interpreted
from .abi import AHEAD_BYTES, CHAIN, INTERLEAVED, INTERLEAVED_BOTH, STEPS, UNROLL, VECTOR_BYTES

# Words to count with: a literal would make a float of a sum.
ZERO, ONE, TWO, THREE, FOUR, FIVE, SIX, SEVEN, EIGHT = (np.uintp(n) for n in range(9))
_INTERLEAVED, _INTERLEAVED_BOTH = np.uintp(INTERLEAVED), np.uintp(INTERLEAVED_BOTH)

_INT = ir.IntType(32)


class Emitter:
    """Emits vector code for an intrinsic whose arguments are known by name."""

    def __init__(self, context, builder, names, signature, args, size=VECTOR_BYTES):
        self.context, self.builder = context, builder
        self.types = dict(zip(names, signature.args, strict=True))
        self.values = dict(zip(names, args, strict=True))
        dtype = self.types["x"].dtype if self.has("x") else self.types["dy"].dtype
        self.lanes = max(1, size // (dtype.bitwidth // 8))

    def runs_at_once(self):
        """How many runs or rows are summed at once."""
        return INTERLEAVED_BOTH if self.has("dy") else INTERLEAVED

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

    def size(self, name):
        """The values of an array."""
        return self.context.make_array(self.types[name])(
            self.context, self.builder, self.values[name]
        ).nitems

    def load(self, name, offset):
        """The vector at ``name[offset]``; a scalar is repeated."""
        if not isinstance(self.types[name], types.Array):
            return self.splat(self.values[name])
        pointer, size = self.pointer(name, offset)
        value = self.builder.load(pointer)
        value.align = size
        return value

    def fetch(self, offset):
        """Ask for what lies ahead of a place that is read."""
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), _INT, _INT, _INT])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0i8")
        for name in ("x", "dy"):
            if self.has(name):
                pointer, _ = self.pointer(name, offset)
                place = self.builder.bitcast(pointer, ir.IntType(8).as_pointer())
                place = self.builder.gep(place, [ir.Constant(offset.type, AHEAD_BYTES)])
                self.builder.call(function, [place, *(ir.Constant(_INT, k) for k in (0, 3, 1))])

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
        """``a * b + c``, rounded once; twice on a processor that cannot."""
        if not fuses(self.context.codegen().magic_tuple()):
            return self.builder.fadd(self.builder.fmul(a, b), c)
        kind = ir.FunctionType(a.type, [a.type, a.type, a.type])
        name = f"llvm.fma.v{self.lanes}{a.type.element.intrinsic_name}"
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, [a, b, c])

    def affine(self, place, center, scale, offset, gain):
        """``((dy +) (x - center) * scale + offset) (* gain)``."""
        result = None
        if self.has("x"):
            centered = self.builder.fsub(self.load("x", place), center)
            result = self.multiply_add(centered, scale, offset)
        if self.has("dy"):
            dy = self.load("dy", place)
            result = self.builder.fmul(self.builder.fadd(dy, result) if result else dy, gain)
        return result

    def terms(self, offset, shift, exact=False):
        """u and d of the sums of u and of u * d; u is ``dy``, or d without it.

        The sums that kernels ask for are those of x - shift. Here d is shift - x: the other way
        round, x needs an instruction of its own to be loaded, and a sum takes 12 % longer (AMD
        EPYC, 2026-11). So a sum that is odd in d has the wrong sign, until `add_total` takes it
        away from the total instead of adding it. No rounding depends on a sign.
        """
        convert = self.double if exact else lambda value: value
        d = self.builder.fsub(convert(shift), convert(self.load("x", offset)))
        return (convert(self.load("dy", offset)) if self.has("dy") else d), d

    def add(self, u, d, total=None, product=None):
        """Add u and u * d to sums, if there are any."""
        if total is None:
            return u, self.builder.fmul(u, d)
        return self.builder.fadd(total, u), self.multiply_add(u, d, product)

    def add_total(self, before, total, which):
        """Add the sum of u (0) or of u * d (1) to what was there; see `terms` for its sign."""
        odd = which == (1 if self.has("dy") else 0)
        return (self.builder.fsub if odd else self.builder.fadd)(before, total)

    def add_sums(self, total, product, j):
        """Add the sums of u and of u * d to those of the columns from j on, in float64."""
        for which, (name, value) in enumerate((("s1", total), ("s2", product))):
            new = self.add_total(self.load(name, j), self.double(value), which)
            self.store(new, name, j)

    def store(self, value, name, offset, nontemporal=False):
        pointer, size = self.pointer(name, offset)
        instruction = self.builder.store(value, pointer)
        instruction.align = VECTOR_BYTES if nontemporal else size
        if nontemporal:
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
    """The loops of `sum_run` and `sum_interleaved`: sums of `CHAIN` terms, then of float64."""

    def __init__(self, emit, exact, unroll=UNROLL):
        self.builder, self.exact = emit.builder, exact
        self.index = emit.values["o"].type
        self.at = self._variable(self.index, emit.values["o"])
        self.vectors_of(emit)
        # Halves, so that they and eight sums fit 16 registers: spilt, a run of 196 takes 22 ns, not
        # 17 (AMD EPYC, 2026-11).
        self.half = emit.lanes // 2
        double = ir.Constant(ir.VectorType(ir.DoubleType(), self.half), [0.0] * self.half)
        self.sums = [self._variable(self.zero.type, self.zero) for _ in range(2 * unroll)]
        self.totals = [self._variable(double.type, double) for _ in range(2)]

    def vectors_of(self, emit):
        """Emit vectors of another size from now on."""
        self.emit, self.shift = emit, emit.splat(emit.values["shift"])
        element = self.shift.type.element if not self.exact else ir.DoubleType()
        self.zero = ir.Constant(emit.vector(element), [0.0] * emit.lanes)

    def _variable(self, kind, value):
        variable = cgutils.alloca_once(self.builder, kind)
        self.builder.store(value, variable)
        return variable

    def number(self, value):
        return ir.Constant(self.index, value)

    def go_to(self, distance):
        """Move to a run so many values behind the first."""
        self.builder.store(self.builder.add(self.emit.values["o"], distance), self.at)

    def step(self, count, keep=None):
        """Add so many vectors to as many sums, and move on; of one, only the lanes to keep."""
        builder, at = self.builder, self.builder.load(self.at)
        for k in range(count):
            offset = builder.add(at, self.number(k * self.emit.lanes))
            u, d = self.emit.terms(offset, self.shift, self.exact)
            if keep is not None:
                u, d = (builder.select(keep, value, self.zero) for value in (u, d))
            else:
                self.emit.fetch(offset)
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

    def step_interleaved(self, distance, count, keep=None):
        """Add one or two vectors of each run to the totals, and move on."""
        builder, start = self.builder, self.builder.load(self.at)
        sums, place = [(None, None), (None, None)], start
        for k in range(self.emit.runs_at_once() * count):
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
        total = self.totals[which]
        if value.type.count > self.half:
            value = self.emit.halves(value)
        new = self.emit.add_total(self.builder.load(total), self.emit.double(value), which)
        self.builder.store(new, total)

    def results(self):
        """The totals' lanes, added up."""
        return [self.emit.total(self.builder.load(total)) for total in self.totals]

    def go_to_rest(self, n, left):
        """Move to the vector of the values that are left, and say which lanes they are in.

        To a run's last vector; of a run shorter than a vector to its first one, unless that reaches
        beyond the array: then to the array's last one.
        """
        builder, at, lanes = self.builder, self.builder.load(self.at), self.number(self.emit.lanes)
        short, last = builder.icmp_unsigned("<", n, lanes), builder.sub(self.emit.size("x"), lanes)
        first = builder.select(builder.icmp_unsigned("<", at, last), at, last)
        start = builder.select(short, first, builder.sub(at, builder.sub(lanes, left)))
        done = builder.sub(at, start)
        builder.store(start, self.at)
        through = self.emit.before(builder.add(done, left))
        return builder.and_(through, builder.not_(self.emit.before(done)))

    def back_to_last(self, left):
        """Move back to the last vector, where so many values are left, and say which lanes."""
        builder = self.builder
        done = builder.sub(self.number(self.emit.lanes), left)
        builder.store(builder.sub(builder.load(self.at), done), self.at)
        return builder.not_(self.emit.before(done))


_AFFINE = ("out", "x", "dy", "o", "center", "scale", "offset", "gain", "p")


def _make_affine(size=VECTOR_BYTES, nontemporal=False, pair=False, twice=False):
    """``out[o:] = ((dy[o:] +) (x[o:] - center) * scale + offset) (* gain)``.

    Without ``dy`` there is no ``gain``; without ``x`` the result is ``dy * gain``. The coefficients
    are scalars, or arrays that are read from ``p``. With ``pair`` they are those at p for the first
    k values, and those at q for the others; with ``twice`` they serve the vector ``distance``
    values behind o as well. A non-temporal store needs the address of a whole line.
    """
    names = (*_AFFINE, *(("q", "k") if pair else ("distance",) if twice else ()))

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, names, signature, args, size)
        o, p = emit.values["o"], emit.values["p"]
        first = emit.before(emit.values["k"]) if pair else None

        def coefficient(name):
            if not pair:
                return emit.load(name, p)
            here, there = emit.element(name, p), emit.element(name, emit.values["q"])
            return builder.select(first, here, there)

        center, scale, offset, gain = (
            coefficient(name) if emit.has(reads) else None
            for name, reads in zip(_AFFINE[4:8], ("x", "x", "x", "dy"), strict=True)
        )
        places = (o, builder.add(o, emit.values["distance"])) if twice else (o,)
        # Before anything is stored: 4 KiB aliasing would have a load wait for a store before it.
        results = [emit.affine(place, center, scale, offset, gain) for place in places]
        for place, result in zip(places, results, strict=True):
            emit.store(result, "out", place, nontemporal)
        return context.get_dummy_value()

    index = types.uintp
    if pair:

        @intrinsic
        def affine_pair(typing, out, x, dy, o, center, scale, offset, gain, p, q, k):
            coefficients = center, scale, offset, gain
            return types.void(out, x, dy, index, *coefficients, index, index, index), codegen

        return affine_pair
    if twice:

        @intrinsic
        def affine_twice(typing, out, x, dy, o, center, scale, offset, gain, p, distance):
            coefficients = center, scale, offset, gain
            return types.void(out, x, dy, index, *coefficients, index, index), codegen

        return affine_twice

    @intrinsic
    def affine(typing, out, x, dy, o, center, scale, offset, gain, p):
        coefficients = center, scale, offset, gain
        return types.void(out, x, dy, index, *coefficients, index), codegen

    return affine


def _make_add_rows(exact):
    """Add d and d * d, d = x - shift, of several rows to the float64 sums of columns from j on.

    With ``dy``: dy and dy * d. The first row begins at ``o``, and each of the others so many values
    behind the one before.
    """

    @intrinsic
    def add_rows(typing, x, dy, o, distance, shift, s1, s2, j):
        names = ("x", "dy", "o", "distance", "shift", "s1", "s2", "j")

        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, names, signature, args)
            j, distance = emit.values["j"], emit.values["distance"]
            shift, place = emit.load("shift", j), builder.add(emit.values["o"], j)
            sums = [(None, None), (None, None)]
            for k in range(emit.runs_at_once()):
                sums[k % 2] = emit.add(*emit.terms(place, shift, exact), *sums[k % 2])
                if not exact:  # some columns only
                    emit.fetch(place)
                place = builder.add(place, distance)
            emit.add_sums(*(builder.fadd(*pair) for pair in zip(*sums, strict=True)), j)
            return context.get_dummy_value()

        index = types.uintp
        return types.void(x, dy, index, index, shift, s1, s2, index), codegen

    return add_rows


def _make_add_few(exact):
    """``add_few(x, dy, o, distance, count, shift, s1, s2, j)``: as ``add_rows``, ``count`` rows."""

    @intrinsic
    def add_few(typing, x, dy, o, distance, count, shift, s1, s2, j):
        names = ("x", "dy", "o", "distance", "count", "shift", "s1", "s2", "j")

        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, names, signature, args)
            j, shift = emit.values["j"], emit.load("shift", emit.values["j"])
            kind = emit.vector(ir.DoubleType()) if exact else shift.type
            sums = [cgutils.alloca_once(builder, kind) for _ in range(2)]
            for each in sums:
                builder.store(ir.Constant(kind, [0.0] * emit.lanes), each)
            with cgutils.for_range(builder, emit.values["count"]) as row:
                behind = builder.mul(row.index, emit.values["distance"])
                place = builder.add(builder.add(emit.values["o"], j), behind)
                terms, so_far = emit.terms(place, shift, exact), map(builder.load, sums)
                for value, each in zip(emit.add(*terms, *so_far), sums, strict=True):
                    builder.store(value, each)
            emit.add_sums(*map(builder.load, sums), j)
            return context.get_dummy_value()

        index = types.uintp
        return types.void(x, dy, index, index, index, shift, s1, s2, index), codegen

    return add_few


def _make_add_exactly(size=VECTOR_BYTES):
    """Add d and d * d, or dy and dy * d, of one row to the sums of columns from j on, in float64.

    The arguments are those of ``add_rows``, less the distance.
    """

    @intrinsic
    def add_exactly(typing, x, dy, o, shift, s1, s2, j):
        names = ("x", "dy", "o", "shift", "s1", "s2", "j")

        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, names, signature, args, size)
            j = emit.values["j"]
            place, shift = builder.add(emit.values["o"], j), emit.load("shift", j)
            emit.add_sums(*emit.add(*emit.terms(place, shift, exact=True)), j)
            return context.get_dummy_value()

        index = types.uintp
        return types.void(x, dy, index, shift, s1, s2, index), codegen

    return add_exactly


def _make_sum_run(exact):
    """``sum_run(x, dy, o, n, count, distance, shift)``: sums of d and d * d, or of dy and dy * d.

    d = x - shift. The first of ``count`` runs begins at o, and each of the others so many values
    behind the one before; they have n values. The whole array has a vector.
    """

    @intrinsic
    def sum_run(typing, x, dy, o, n, count, distance, shift):
        names = ("x", "dy", "o", "n", "count", "distance", "shift")
        result = types.UniTuple(types.float64, 2)

        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, names, signature, args)
            loop, n = RunSum(emit, exact), emit.values["n"]
            vectors = builder.udiv(n, loop.number(emit.lanes))
            rest = builder.urem(n, loop.number(emit.lanes))
            with cgutils.for_range(builder, emit.values["count"]) as runs:
                loop.go_to(builder.mul(runs.index, emit.values["distance"]))
                # One loop: of two, the rest of a chain is unrolled, and spills.
                with cgutils.for_range(builder, builder.udiv(vectors, loop.number(UNROLL))) as each:
                    loop.step(UNROLL)
                    place = builder.urem(each.index, loop.number(CHAIN))
                    full = builder.icmp_unsigned("==", place, loop.number(CHAIN - 1))
                    with builder.if_then(full):
                        loop.flush()
                with cgutils.for_range(builder, builder.urem(vectors, loop.number(UNROLL))):
                    loop.step(1)
                with builder.if_then(builder.icmp_unsigned("!=", rest, loop.number(0))):
                    loop.step(1, keep=loop.go_to_rest(n, rest))
                loop.flush()
            return context.make_tuple(builder, result, loop.results())

        index = types.uintp
        return result(x, dy, index, index, index, index, x.dtype), codegen

    return sum_run


def _make_sum_interleaved():
    """``sum_interleaved(x, dy, o, n, distance, shift)``: the sums of several runs at once.

    They are those of ``sum_run``. The first run begins at o, and each of the others so many values
    behind the one before.
    """

    @intrinsic
    def sum_interleaved(typing, x, dy, o, n, distance, shift):
        names = ("x", "dy", "o", "n", "distance", "shift")
        result = types.UniTuple(types.float64, 2)

        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, names, signature, args)
            loop = RunSum(emit, exact=False, unroll=0)
            n, distance = emit.values["n"], emit.values["distance"]
            vectors = builder.udiv(n, loop.number(emit.lanes))
            with cgutils.for_range(builder, builder.udiv(vectors, loop.number(2))):
                loop.step_interleaved(distance, 2)
            odd = builder.urem(vectors, loop.number(2))
            with builder.if_then(builder.icmp_unsigned("!=", odd, loop.number(0))):
                loop.step_interleaved(distance, 1)
            rest = builder.urem(n, loop.number(emit.lanes))
            half = Emitter(context, builder, names, signature, args, VECTOR_BYTES // 2)
            few = builder.icmp_unsigned("<=", rest, loop.number(half.lanes))
            with (
                builder.if_then(builder.icmp_unsigned("!=", rest, loop.number(0))),
                builder.if_else(few) as branches,
            ):
                # Half a vector, where the other half would be zeros: 32 runs of 49 values take 5 %
                # less, and 8 % with registers of 32 bytes (AMD EPYC, 2026-11).
                for size, branch in zip((half, emit), branches, strict=True):
                    with branch:
                        loop.vectors_of(size)
                        loop.step_interleaved(distance, 1, keep=loop.back_to_last(rest))
            return context.make_tuple(builder, result, loop.results())

        element = x.dtype
        return result(x, dy, types.uintp, types.uintp, types.uintp, element), codegen

    return sum_interleaved


def _make_mean_near():
    """``mean_near(x, p, q)``: the mean of the vectors that begin at p and q, roughly.

    As the first value, which counts as 0 if it is not finite, and the mean of what finite
    differences there are from it.
    """

    @intrinsic
    def mean_near(typing, x, p, q):
        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, ("x", "p", "q"), signature, args)

            def finite(value):
                zero = ir.Constant(value.type, [0.0] * value.type.count)
                is_finite = builder.fcmp_ordered("==", builder.fsub(value, value), zero)
                return builder.select(is_finite, value, zero)

            first = finite(emit.element("x", emit.values["p"]))
            steps = (emit.load("x", emit.values[place]) for place in ("p", "q"))
            one, other = (finite(builder.fsub(step, first)) for step in steps)
            share = ir.Constant(first.type, [0.5 / emit.lanes] * emit.lanes)
            total = emit.multiply_add(other, share, builder.fmul(one, share))
            return builder.fadd(
                builder.extract_element(first, ir.Constant(_INT, 0)), emit.total(total)
            )

        return x.dtype(x, types.uintp, types.uintp), codegen

    return mean_near


def _make_repeat():
    """``repeat(out, values, j, c)``: a vector of ``values[c]`` from ``out[j]`` on."""

    @intrinsic
    def repeat(typing, out, x, j, c):
        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, ("out", "x", "j", "c"), signature, args)
            emit.store(emit.element("x", emit.values["c"]), "out", emit.values["j"])
            return context.get_dummy_value()

        return types.void(out, x, types.uintp, types.uintp), codegen

    return repeat


def _make_take_root(size=VECTOR_BYTES):
    """``x[j:] = sqrt(x[j:])`` by the processor's own instruction, which rounds right.

    As a constrained operation: of a plain one LLVM makes a call of Intel's SVML where Numba has
    found that, and of its roots one in 150 is a digit off with AVX-512, every other with AVX2
    (SVML 2026.2, 2026-11).
    """

    @intrinsic
    def take_root(typing, x, j):
        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, ("x", "j"), signature, args, size)
            value, text = emit.load("x", emit.values["j"]), ir.MetaDataType()
            kind = ir.FunctionType(value.type, [value.type, text, text])
            name = f"llvm.experimental.constrained.sqrt.v{emit.lanes}f64"
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            how = ("round.tonearest", "fpexcept.ignore")
            words = [ir.MetaDataString(builder.module, word) for word in how]
            emit.store(builder.call(function, [value, *words]), "x", emit.values["j"])
            return context.get_dummy_value()

        return types.void(types.Array(types.float64, 1, "C"), types.uintp), codegen

    return take_root


def _make_fence():
    """Non-temporal stores are ordered with others only by a fence."""

    @intrinsic
    def fence(typing):
        def codegen(context, builder, signature, args):
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return types.void(), codegen

    return fence


@inner
def runs_at_once(dy):
    """How many runs or rows are summed at once."""
    return _INTERLEAVED if dy is None else _INTERLEAVED_BOTH


@inner
def lanes_of(array):
    """Values of a vector."""
    return np.uintp(VECTOR_BYTES // array.itemsize)


@inner
def to_line(array, o):
    """Values from o to where the next cache line begins."""
    lanes = lanes_of(array)
    place = data_pointer(array) // np.uintp(array.itemsize) + o
    return (lanes - place % lanes) % lanes


@inner
def same_memory(a, b):
    """Whether two flat arrays start at the same address; an absent one never does."""
    return False if b is None else data_pointer(a) == data_pointer(b)


@inner
def stores_past_caches(context, out, x, dy):
    """Whether to use non-temporal stores: not over what was just read."""
    wanted = record_at(context.steps, STEPS).nontemporal
    return wanted != ZERO and not (same_memory(out, x) or same_memory(out, dy))


if INTERPRETED:
    affine = interpreted.make_affine()
    affine_nontemporal = interpreted.make_affine(nontemporal=True)
    affine_pair = interpreted.make_affine(pair=True)
    affine_pair_nontemporal = interpreted.make_affine(pair=True, nontemporal=True)
    affine_twice = interpreted.make_affine(twice=True)
    affine_twice_nontemporal = interpreted.make_affine(twice=True, nontemporal=True)
    affine_one = interpreted.make_affine(size=1)
    add_rows = interpreted.make_add_rows(exact=False)
    add_rows_exactly = interpreted.make_add_rows(exact=True)
    add_few = interpreted.make_add_few(exact=False)
    add_few_exactly = interpreted.make_add_few(exact=True)
    add_exactly = interpreted.make_add_exactly()
    add_exactly_one = interpreted.make_add_exactly(size=1)
    sum_run = interpreted.make_sum_run(exact=False)
    sum_run_exact = interpreted.make_sum_run(exact=True)
    sum_interleaved = interpreted.sum_interleaved
    mean_near = interpreted.mean_near
    repeat = interpreted.repeat
    take_root = interpreted.make_take_root()
    take_root_one = interpreted.make_take_root(size=1)
    fence = interpreted.fence
else:
    affine = _make_affine()
    affine_nontemporal = _make_affine(nontemporal=True)
    affine_pair = _make_affine(pair=True)
    affine_pair_nontemporal = _make_affine(pair=True, nontemporal=True)
    affine_twice = _make_affine(twice=True)
    affine_twice_nontemporal = _make_affine(twice=True, nontemporal=True)
    affine_one = _make_affine(size=1)
    add_rows = _make_add_rows(exact=False)
    add_rows_exactly = _make_add_rows(exact=True)
    add_few = _make_add_few(exact=False)
    add_few_exactly = _make_add_few(exact=True)
    add_exactly = _make_add_exactly()
    add_exactly_one = _make_add_exactly(size=1)
    sum_run = _make_sum_run(exact=False)
    sum_run_exact = _make_sum_run(exact=True)
    sum_interleaved = _make_sum_interleaved()
    mean_near = _make_mean_near()
    repeat = _make_repeat()
    take_root = _make_take_root()
    take_root_one = _make_take_root(size=1)
    fence = _make_fence()
