"""Explicit vectors of 64 bytes, for what LLVM's loop vectoriser does badly or not at all.

The lanes are the same whatever the registers: LLVM takes one of 64 bytes, two of 32 or four of 16.
So are the terms of each lane, the tree that adds lanes up, and what is rounded once: the same bits
on every processor (docs/order.md).

What an operation reads and writes travels as one record, `Operands`, and what it multiplies with
as another, `Coefficients`: a field that is None is an option that was not asked for, of which no
code is made. 16-bit numbers are words to a kernel, float32 from where they are loaded to where they
are stored.

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
from .._runtime.jit import INTERPRETED, data_pointer, flat_array, inner, record_at
from . import interpreted
from .abi import (
    AHEAD_BYTES,
    CHAIN,
    INTERLEAVED,
    INTERLEAVED_BOTH,
    STEPS,
    UNROLL,
    VECTOR_BYTES,
    Coefficients,
    Operands,
)

# Words to count with: a literal would make a float of a sum.
ZERO, ONE, TWO, THREE, FOUR, FIVE, SIX, SEVEN, EIGHT = (np.uintp(n) for n in range(9))
_LINE = np.uintp(VECTOR_BYTES)

_INT, _FLOAT, _DOUBLE = ir.IntType(32), ir.FloatType(), ir.DoubleType()
# How words that kernels see as integers are numbers: see `steps.Storage`.
FLOAT16, BFLOAT16, MASK = types.uint16, types.int16, types.uint8


class Emitter:
    """Emits vector code for an intrinsic whose arguments, and fields of records, have names."""

    def __init__(self, context, builder, names, signature, args, size=VECTOR_BYTES):
        self.context, self.builder = context, builder
        self.types, self.values = {}, {}
        for name, kind, value in zip(names, signature.args, args, strict=True):
            if not isinstance(kind, (types.NamedTuple, types.NamedUniTuple)):
                self.types[name], self.values[name] = kind, value
                continue
            for i, field in enumerate(kind.fields):
                self.types[field] = kind.types[i]
                self.values[field] = builder.extract_value(value, i)
        computed = next(filter(self.has, ("out", "x", "dy")))
        double = self.types[computed].dtype == types.float64
        self.real = _DOUBLE if double else _FLOAT
        self.lanes = max(1, size // (8 if double else 4))

    def runs_at_once(self):
        """How many runs or rows are summed at once."""
        return INTERLEAVED_BOTH if self.has("dy") else INTERLEAVED

    def has(self, name):
        return self.types.get(name, types.none) != types.none

    def vector(self, element):
        return ir.VectorType(element, self.lanes)

    def zero(self, kind):
        return ir.Constant(kind, [0.0] * kind.count)

    def array(self, name):
        return self.context.make_array(self.types[name])(
            self.context, self.builder, self.values[name]
        )

    def pointer(self, name, offset):
        """Where the vector at ``name[offset]`` lies, and the size of an element."""
        dtype = self.types[name].dtype
        shape = self.vector(self.context.get_data_type(dtype))
        address = self.builder.gep(self.array(name).data, [offset])
        return self.builder.bitcast(address, shape.as_pointer()), dtype.bitwidth // 8

    def load(self, name, offset):
        """The vector at ``name[offset]``; a scalar is repeated."""
        if not isinstance(self.types[name], types.Array):
            return self.splat(self.values[name])
        pointer, size = self.pointer(name, offset)
        value = self.builder.load(pointer)
        value.align = size
        return self.widen(value, self.types[name].dtype)

    def widen(self, value, dtype):
        """What was loaded as the numbers that they are."""
        builder = self.builder
        if dtype == MASK:
            return builder.uitofp(value, self.vector(self.real))
        if dtype == FLOAT16:
            half = builder.bitcast(value, self.vector(ir.HalfType()))
            return builder.fpext(half, self.vector(_FLOAT))
        if dtype == BFLOAT16:
            # Zeros between the words: one instruction less than to widen and to shift them.
            zero, lanes = ir.Constant(value.type, [0] * self.lanes), range(2 * self.lanes)
            which = [lane // 2 if lane % 2 else self.lanes for lane in lanes]
            shape = ir.VectorType(_INT, 2 * self.lanes)
            spread = builder.shuffle_vector(value, zero, ir.Constant(shape, which))
            return builder.bitcast(spread, self.vector(_FLOAT))
        return value

    def narrow(self, value, dtype):
        """Numbers as the words that are stored, rounded to nearest, ties to even.

        A NaN of bfloat16 must not end in the digits that are added: see `channels.plain`.
        """
        builder = self.builder
        if dtype == FLOAT16:
            half = builder.fptrunc(value, self.vector(ir.HalfType()))
            return builder.bitcast(half, self.vector(ir.IntType(16)))
        if dtype != BFLOAT16:
            return value

        def constant(number):
            return ir.Constant(self.vector(_INT), [number] * self.lanes)

        bits = builder.bitcast(value, self.vector(_INT))
        odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
        rounded = builder.add(bits, builder.add(odd, constant(0x7FFF)))
        high = builder.lshr(rounded, constant(16))
        return builder.trunc(high, self.vector(ir.IntType(16)))

    def fetch(self, offset):
        """Ask for what lies ahead of a place that is read."""
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), _INT, _INT, _INT])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0i8")
        for name in ("x", "dy", "residual"):
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
        one = Emitter.__new__(Emitter)
        vars(one).update(vars(self), lanes=1)
        value = one.load(name, offset)
        return self.splat(self.builder.extract_element(value, ir.Constant(_INT, 0)))

    def double(self, value):
        """As float64."""
        wide = ir.VectorType(_DOUBLE, value.type.count)
        return value if value.type == wide else self.builder.fpext(value, wide)

    def multiply_add(self, a, b, c):
        """``a * b + c``, rounded once; twice on a processor that cannot."""
        if not fuses(self.context.codegen().magic_tuple()):
            return self.builder.fadd(self.builder.fmul(a, b), c)
        kind = ir.FunctionType(a.type, [a.type, a.type, a.type])
        name = f"llvm.fma.v{self.lanes}{a.type.element.intrinsic_name}"
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, [a, b, c])

    # What an option changes is in these five: see CONTRIBUTING.md.

    def activate(self, deciding, value):
        """``value`` where the number that decides is above 0; elsewhere times the slope.

        As PyTorch does it: without a slope 0 takes its place, but NaN is not below anything.
        """
        zero = self.zero(value.type)
        if isinstance(self.types["slope"], types.Boolean):
            below = self.builder.fcmp_ordered("<=", deciding, zero)
            return self.builder.select(below, zero, value)
        above = self.builder.fcmp_ordered(">", deciding, zero)
        sloped = self.builder.fmul(value, self.splat(self.values["slope"]))
        return self.builder.select(above, value, sloped)

    def before_activation(self, place, centered, scale, offset):
        """``centered * scale + offset (+ residual)``: the same bits in both passes."""
        value = self.multiply_add(centered, scale, offset)
        return (
            self.builder.fadd(value, self.load("residual", place))
            if self.has("residual")
            else value
        )

    def without(self, condition, value):
        """0 where a condition holds, whatever the value is there."""
        return self.builder.select(condition, self.zero(value.type), value)

    def affine(self, place, coefficient, weights):
        """What is written: y, or dx and the gradient before the activation.

        y = (x - center) * scale + offset (+ residual), activated; dx = (dy + (x - center) * scale +
        offset (times weights)) * gain. ``coefficient(name)`` gives vectors.
        """
        builder, zero = self.builder, self.zero(self.vector(self.real))
        centered = (
            builder.fsub(self.load("x", place), coefficient("center")) if self.has("x") else None
        )
        if not self.has("dy"):
            y = self.before_activation(place, centered, coefficient("scale"), coefficient("offset"))
            return self.activate(y, y) if self.has("slope") else y, None
        dy = result = self.load("dy", place)
        if self.has("slope"):
            level = coefficient("factor"), coefficient("level")
            dy = result = self.activate(self.before_activation(place, centered, *level), dy)
        if self.has("scale"):
            through = self.multiply_add(centered, coefficient("scale"), coefficient("offset"))
            if weights is not None:
                none = builder.fcmp_ordered("==", weights, zero)
                through = self.without(none, builder.fmul(through, weights))
            result = builder.fadd(dy, through)
        return builder.fmul(result, coefficient("gain")), dy

    def terms(self, offset, coefficients, exact=False, w=None):
        """u and d of the sums of u and of u * d; u is ``dy``, or d without it (times the weight).

        The sums that kernels ask for are those of x - shift. Here d is shift - x: the other way
        round, x needs an instruction of its own to be loaded, and a sum takes 12 % longer (AMD
        EPYC, 2026-11). So a sum that is odd in d has the wrong sign, until `add_total` takes it
        away from the total instead of adding it. No rounding depends on a sign.

        What has no weight counts as 0, or no gradient where some have none: it may be NaN.
        """
        builder, convert = self.builder, self.double if exact else lambda value: value
        shift, x = coefficients["center"], self.load("x", offset)
        d = builder.fsub(convert(shift), convert(x))
        if not self.has("dy"):
            if not self.has("weights"):
                return d, d
            weight = self.load("weights", w)
            d = self.without(builder.fcmp_ordered("==", weight, self.zero(weight.type)), d)
            return builder.fmul(d, convert(weight)), d
        dy = self.load("dy", offset)
        if self.has("slope"):
            level = coefficients["factor"], coefficients["level"]
            decides = self.before_activation(offset, builder.fsub(x, shift), *level)
            dy = self.activate(decides, dy)
        if self.has("masked"):
            d = self.without(builder.fcmp_ordered("==", dy, self.zero(dy.type)), d)
        return convert(dy), d

    def coefficients(self, place=None):
        """The vectors of all that there are, by name."""
        names = (name for name in Coefficients._fields if self.has(name))
        return {name: self.load(name, place) for name in names}

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
        value = self.narrow(value, self.types[name].dtype)
        instruction = self.builder.store(value, pointer)
        instruction.align = size * self.lanes if nontemporal else size
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
        self.to_weights = self.builder.sub(emit.values["w"], emit.values["o"])
        self.vectors_of(emit)
        # Halves, so that they and eight sums fit 16 registers: spilt, a run of 196 takes 22 ns, not
        # 17 (AMD EPYC, 2026-11).
        self.half = emit.lanes // 2
        double = emit.zero(ir.VectorType(_DOUBLE, self.half))
        self.sums = [self._variable(self.zero.type, self.zero) for _ in range(2 * unroll)]
        self.totals = [self._variable(double.type, double) for _ in range(2)]

    def vectors_of(self, emit):
        """Emit vectors of another size from now on."""
        self.emit, self.coefficients = emit, emit.coefficients()
        self.zero = emit.zero(emit.vector(_DOUBLE if self.exact else emit.real))

    def _variable(self, kind, value):
        variable = cgutils.alloca_once(self.builder, kind)
        self.builder.store(value, variable)
        return variable

    def number(self, value):
        return ir.Constant(self.index, value)

    def go_to(self, k):
        """Move to the k-th run behind the first."""
        builder, values = self.builder, self.emit.values
        place = builder.add(values["o"], builder.mul(k, values["distance"]))
        weights = builder.add(values["w"], builder.mul(k, values["w_distance"]))
        builder.store(place, self.at)
        self.to_weights = builder.sub(weights, place)

    def terms(self, offset, to_weights, keep=None):
        """The terms of a vector, 0 in all but the lanes to keep."""
        w = self.builder.add(offset, to_weights)
        terms = self.emit.terms(offset, self.coefficients, self.exact, w)
        if keep is None:
            return terms
        return tuple(self.builder.select(keep, value, self.zero) for value in terms)

    def step(self, count, keep=None):
        """Add so many vectors to as many sums, and move on; of one, only the lanes to keep."""
        builder, at = self.builder, self.builder.load(self.at)
        for k in range(count):
            offset = builder.add(at, self.number(k * self.emit.lanes))
            u, d = self.terms(offset, self.to_weights, keep)
            if keep is None:
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

    def step_interleaved(self, count, keep=None):
        """Add one or two vectors of each run to the totals, and move on."""
        builder, start = self.builder, self.builder.load(self.at)
        distance, sums, place = self.emit.values["distance"], [(None, None), (None, None)], start
        to_weights = self.to_weights
        further = builder.sub(self.emit.values["w_distance"], distance)
        for k in range(self.emit.runs_at_once() * count):
            at = builder.add(place, self.number(k % count * self.emit.lanes))
            sums[k % 2] = self.emit.add(*self.terms(at, to_weights, keep), *sums[k % 2])
            if (k + 1) % count == 0:
                place = builder.add(place, distance)
                to_weights = builder.add(to_weights, further)
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
        short = builder.icmp_unsigned("<", n, lanes)
        last = builder.sub(self.emit.array("x").nitems, lanes)
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


_AFFINE = ("operands", "o", "coefficients", "p", "w")


def _emit_affine(emit, pair, twice, nontemporal):
    """What `_make_affine` says."""
    builder, values, found = emit.builder, emit.values, {}
    o, p, w = values["o"], values["p"], values["w"]
    first = emit.before(values["k"]) if pair else None

    def coefficient(name):
        if name not in found and pair:
            here, there = emit.element(name, p), emit.element(name, values["q"])
            found[name] = builder.select(first, here, there)
        elif name not in found:
            found[name] = emit.load(name, p)
        return found[name]

    def weights(further):
        if not emit.has("weights"):
            return None
        here = emit.load("weights", builder.add(w, further))
        if not pair:
            return here
        there = emit.load("weights", builder.sub(values["v"], values["k"]))
        return builder.select(first, here, there)

    ways = (ir.Constant(o.type, 0), *((values["distance"],) if twice else ()))
    places = [builder.add(o, way) for way in ways]
    # Before anything is stored: 4 KiB aliasing would have a load wait for a store before it.
    written = [
        emit.affine(place, coefficient, weights(way))
        for place, way in zip(places, ways, strict=True)
    ]
    for place, (result, before) in zip(places, written, strict=True):
        emit.store(result, "out", place, nontemporal)
        if emit.has("dresidual"):
            emit.store(before, "dresidual", place, nontemporal)


def _make_affine(size=VECTOR_BYTES, nontemporal=False, pair=False, twice=False):
    """``affine(operands, o, coefficients, p, w)``: write a vector, from o on: see `Emitter.affine`.

    The coefficients are scalars, or arrays that are read from ``p``; the weights are read from
    ``w``. With ``pair`` they are those at p and w for the first k values, and those at q and v for
    the others; with ``twice`` the coefficients serve the vector ``distance`` values behind o as
    well. A non-temporal store needs the address of a whole line.
    """
    names = (*_AFFINE, *(("q", "v", "k") if pair else ("distance",) if twice else ()))

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, names, signature, args, size)
        _emit_affine(emit, pair, twice, nontemporal)
        return context.get_dummy_value()

    index = types.uintp
    if pair:

        @intrinsic
        def affine_pair(typing, operands, o, coefficients, p, w, q, v, k):
            indices = (index,) * 5
            return types.void(operands, index, coefficients, *indices), codegen

        return affine_pair
    if twice:

        @intrinsic
        def affine_twice(typing, operands, o, coefficients, p, w, distance):
            return types.void(operands, index, coefficients, index, index, index), codegen

        return affine_twice

    @intrinsic
    def affine(typing, operands, o, coefficients, p, w):
        return types.void(operands, index, coefficients, index, index), codegen

    return affine


_ROWS = ("operands", "o", "coefficients", "s1", "s2", "j", "w")


def _make_add_rows(exact):
    """Add the terms of several rows to the float64 sums of columns from j on.

    The first row begins at ``o``, its weights are read from ``w``, and each of the others begins so
    many values behind the one before, as do its weights.
    """

    @intrinsic
    def add_rows(typing, operands, o, coefficients, s1, s2, j, w, distance, w_distance):
        names = (*_ROWS, "distance", "w_distance")

        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, names, signature, args)
            j, w = emit.values["j"], emit.values["w"]
            columns, place = emit.coefficients(j), builder.add(emit.values["o"], j)
            sums = [(None, None), (None, None)]
            for k in range(emit.runs_at_once()):
                sums[k % 2] = emit.add(*emit.terms(place, columns, exact, w), *sums[k % 2])
                if not exact:  # some columns only
                    emit.fetch(place)
                place = builder.add(place, emit.values["distance"])
                w = builder.add(w, emit.values["w_distance"])
            emit.add_sums(*(builder.fadd(*pair) for pair in zip(*sums, strict=True)), j)
            return context.get_dummy_value()

        index = types.uintp
        indices = (index,) * 4
        return types.void(operands, index, coefficients, s1, s2, *indices), codegen

    return add_rows


def _make_add_few(exact):
    """``add_few(..., count)``: as ``add_rows``, ``count`` rows."""

    @intrinsic
    def add_few(typing, operands, o, coefficients, s1, s2, j, w, distance, w_distance, count):
        names = (*_ROWS, "distance", "w_distance", "count")

        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, names, signature, args)
            values, j = emit.values, emit.values["j"]
            columns = emit.coefficients(j)
            kind = emit.vector(_DOUBLE if exact else emit.real)
            sums = [cgutils.alloca_once(builder, kind) for _ in range(2)]
            for each in sums:
                builder.store(emit.zero(kind), each)
            with cgutils.for_range(builder, values["count"]) as row:
                behind = builder.mul(row.index, values["distance"])
                place = builder.add(builder.add(values["o"], j), behind)
                w = builder.add(values["w"], builder.mul(row.index, values["w_distance"]))
                terms, so_far = emit.terms(place, columns, exact, w), map(builder.load, sums)
                for value, each in zip(emit.add(*terms, *so_far), sums, strict=True):
                    builder.store(value, each)
            emit.add_sums(*map(builder.load, sums), j)
            return context.get_dummy_value()

        index = types.uintp
        indices = (index,) * 5
        return types.void(operands, index, coefficients, s1, s2, *indices), codegen

    return add_few


def _make_add_exactly(size=VECTOR_BYTES):
    """Add the terms of one row to the sums of columns from j on, in float64.

    The arguments are those of ``add_rows``, less the distances.
    """

    @intrinsic
    def add_exactly(typing, operands, o, coefficients, s1, s2, j, w):
        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, _ROWS, signature, args, size)
            j = emit.values["j"]
            place, columns = builder.add(emit.values["o"], j), emit.coefficients(j)
            terms = emit.terms(place, columns, exact=True, w=emit.values["w"])
            emit.add_sums(*emit.add(*terms), j)
            return context.get_dummy_value()

        index = types.uintp
        return types.void(operands, index, coefficients, s1, s2, index, index), codegen

    return add_exactly


_RUN = ("operands", "o", "n", "distance", "coefficients", "w", "w_distance")


def _make_sum_run(exact):
    """``sum_run(operands, o, n, distance, coefficients, w, w_distance, count)``: a channel's sums.

    They are those of `Emitter.terms`. The first of ``count`` runs begins at o, and each of the
    others so many values behind the one before; they have n values. So do their weights. The whole
    array has a vector.
    """

    @intrinsic
    def sum_run(typing, operands, o, n, distance, coefficients, w, w_distance, count):
        result = types.UniTuple(types.float64, 2)

        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, (*_RUN, "count"), signature, args)
            loop, n = RunSum(emit, exact), emit.values["n"]
            vectors = builder.udiv(n, loop.number(emit.lanes))
            rest = builder.urem(n, loop.number(emit.lanes))
            with cgutils.for_range(builder, emit.values["count"]) as runs:
                loop.go_to(runs.index)
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
        indices = (index,) * 3
        return result(operands, *indices, coefficients, *indices), codegen

    return sum_run


def _make_sum_interleaved():
    """``sum_interleaved(operands, o, n, distance, coefficients, w, w_distance)``: of several runs.

    The sums are those of ``sum_run``. The first run begins at o, and each of the others so many
    values behind the one before.
    """

    @intrinsic
    def sum_interleaved(typing, operands, o, n, distance, coefficients, w, w_distance):
        result = types.UniTuple(types.float64, 2)

        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, _RUN, signature, args)
            loop, n = RunSum(emit, exact=False, unroll=0), emit.values["n"]
            vectors = builder.udiv(n, loop.number(emit.lanes))
            with cgutils.for_range(builder, builder.udiv(vectors, loop.number(2))):
                loop.step_interleaved(2)
            odd = builder.urem(vectors, loop.number(2))
            with builder.if_then(builder.icmp_unsigned("!=", odd, loop.number(0))):
                loop.step_interleaved(1)
            rest = builder.urem(n, loop.number(emit.lanes))
            half = Emitter(context, builder, _RUN, signature, args, VECTOR_BYTES // 2)
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
                        loop.step_interleaved(1, keep=loop.back_to_last(rest))
            return context.make_tuple(builder, result, loop.results())

        index = types.uintp
        return result(operands, index, index, index, coefficients, index, index), codegen

    return sum_interleaved


def _real(operands):
    """The type that an operation computes in."""
    return types.float64 if _first_array(operands).dtype == types.float64 else types.float32


def _make_constant(number_of):
    """A function of an array or a record of operands that is a number for all of its type."""

    @intrinsic
    def constant(typing, described):
        number = number_of(described)

        def codegen(context, builder, signature, args):
            return context.get_constant(types.uintp, number)

        return types.uintp(described), codegen

    return constant


def _lanes_of(kind):
    """Values of a vector; words of 16 bits are computed as float32."""
    first = kind if isinstance(kind, types.Array) else _first_array(kind)
    return VECTOR_BYTES // max(first.dtype.bitwidth // 8, 4)


def _first_array(record):
    return next(kind for kind in record if isinstance(kind, types.Array))


def _runs_at_once(operands):
    """How many runs or rows are summed at once."""
    has_dy = operands[Operands._fields.index("dy")] != types.none
    return INTERLEAVED_BOTH if has_dy else INTERLEAVED


def _make_mean_near():
    """``mean_near(operands, p, q)``: the mean of the vectors of x that begin at p and q, roughly.

    As the first value, which counts as 0 if it is not finite, and the mean of what finite
    differences there are from it.
    """

    @intrinsic
    def mean_near(typing, operands, p, q):
        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, ("operands", "p", "q"), signature, args)

            def finite(value):
                zero = emit.zero(value.type)
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

        return _real(operands)(operands, types.uintp, types.uintp), codegen

    return mean_near


def _make_value_at():
    """``value_at(operands, o)``: a value of x, in the type that is computed in."""

    @intrinsic
    def value_at(typing, operands, o):
        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, ("operands", "o"), signature, args, size=1)
            value = emit.load("x", emit.values["o"])
            return builder.extract_element(value, ir.Constant(_INT, 0))

        return _real(operands)(operands, types.uintp), codegen

    return value_at


def _make_of_channel():
    """``of_channel(coefficients, j)``: a channel's coefficients, as scalars."""

    @intrinsic
    def of_channel(typing, coefficients, j):
        kinds = [getattr(kind, "dtype", kind) for kind in coefficients]
        result = types.BaseTuple.from_types(kinds, Coefficients)

        def codegen(context, builder, signature, args):
            values = []
            for i, kind in enumerate(coefficients):
                value = builder.extract_value(args[0], i)
                if kind != types.none:
                    data = context.make_array(kind)(context, builder, value).data
                    value = builder.load(builder.gep(data, [args[1]]))
                values.append(value)
            return context.make_tuple(builder, result, values)

        return result(coefficients, types.uintp), codegen

    return of_channel


def _make_part():
    """``part(coefficients, start, size)``: as `span`, of all that there are."""

    @intrinsic
    def part(typing, coefficients, start, size):
        def codegen(context, builder, signature, args):
            values = []
            for i, kind in enumerate(coefficients):
                value = builder.extract_value(args[0], i)
                if kind != types.none:
                    data = context.make_array(kind)(context, builder, value).data
                    value = flat_array(
                        context, builder, kind, builder.gep(data, [args[1]]), args[2]
                    )
                values.append(value)
            return context.make_tuple(builder, coefficients, values)

        return coefficients(coefficients, types.uintp, types.uintp), codegen

    return part


def _make_weighted_by():
    """``weighted_by(operands, address, size, start, n)``: the record with weights from there.

    They are n of an array of so many, from ``start`` on; of a record that has no weights, nothing.
    """

    @intrinsic
    def weighted_by(typing, operands, address, size, start, n):
        place = Operands._fields.index("weights")
        kinds, kind = list(operands), types.Array(_real(operands), 1, "C")
        weighted = kinds[place] != types.none
        kinds[place] = kind if weighted else types.none
        result = types.BaseTuple.from_types(kinds, Operands)

        def codegen(context, builder, signature, args):
            if not weighted:
                return args[0]
            values = [builder.extract_value(args[0], k) for k in range(len(kinds))]
            data = context.get_data_type(kind.dtype).as_pointer()
            first = builder.gep(builder.inttoptr(args[1], data), [args[3]])
            values[place] = flat_array(context, builder, kind, first, args[4])
            return context.make_tuple(builder, result, values)

        index = types.uintp
        return result(operands, index, index, index, index), codegen

    return weighted_by


def _make_copy_vector():
    """``copy_vector(out, x, j, i)``: the vector at ``x[i]`` to ``out[j]``."""

    @intrinsic
    def copy_vector(typing, out, x, j, i):
        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, ("out", "x", "j", "i"), signature, args)
            emit.store(emit.load("x", emit.values["i"]), "out", emit.values["j"])
            return context.get_dummy_value()

        return types.void(out, x, types.uintp, types.uintp), codegen

    return copy_vector


def _make_spread_samples():
    """``spread_samples(out, x, j, i, channels)``: each of a vector's values for all channels.

    A vector from ``x[i]`` on, and as many as there are channels from ``out[j]`` on; there are no
    more channels than lanes.
    """

    @intrinsic
    def spread_samples(typing, out, x, j, i, channels):
        def codegen(context, builder, signature, args):
            names = ("out", "x", "j", "i", "channels")
            emit = Emitter(context, builder, names, signature, args)
            value, j = emit.load("x", emit.values["i"]), emit.values["j"]
            done = builder.append_basic_block("spread")
            switch = builder.switch(emit.values["channels"], done)
            for count in range(1, emit.lanes + 1):
                block = builder.append_basic_block(f"spread_{count}")
                switch.add_case(ir.Constant(j.type, count), block)
                builder.position_at_end(block)
                for k in range(count):
                    lanes = [(k * emit.lanes + lane) // count for lane in range(emit.lanes)]
                    which = ir.Constant(emit.vector(_INT), lanes)
                    place = builder.add(j, ir.Constant(j.type, k * emit.lanes))
                    emit.store(builder.shuffle_vector(value, value, which), "out", place)
                builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        index = types.uintp
        return types.void(out, x, index, index, index), codegen

    return spread_samples


def _make_add_vector():
    """``add_vector(sums, x, j, i)``: add eight values from ``x[i]`` on to float64 sums."""

    @intrinsic
    def add_vector(typing, sums, x, j, i):
        def codegen(context, builder, signature, args):
            names = ("sums", "x", "j", "i")
            size = 8 * (8 if x.dtype == types.float64 else 4)
            emit = Emitter(context, builder, names, signature, args, size)
            value = emit.double(emit.load("x", emit.values["i"]))
            j = emit.values["j"]
            emit.store(builder.fadd(emit.load("sums", j), value), "sums", j)
            return context.get_dummy_value()

        return types.void(sums, x, types.uintp, types.uintp), codegen

    return add_vector


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
def to_line(array, o):
    """Values from o to where the next vector's store is aligned: with its line of the cache."""
    lanes = lanes_of(array)
    place = data_pointer(array) // np.uintp(array.itemsize) + o
    return (lanes - place % lanes) % lanes


@inner
def same_memory(a, b):
    """Whether two flat arrays start at the same address; an absent one never does."""
    return False if b is None else data_pointer(a) == data_pointer(b)


@inner
def in_place(operands):
    """Whether the output replaces an input."""
    return same_memory(operands.out, operands.x) or same_memory(operands.out, operands.dy)


@inner
def _on_one_line(a, b):
    """Whether values of two arrays lie on lines of the cache alike; with an absent one they do."""
    return True if b is None else data_pointer(a) % _LINE == data_pointer(b) % _LINE


@inner
def stores_past_caches(context, operands):
    """Whether to use non-temporal stores: not over what was just read."""
    wanted = record_at(context.steps, STEPS).nontemporal
    alike = _on_one_line(operands.out, operands.dresidual)
    return wanted != ZERO and alike and not in_place(operands)


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
    value_at = interpreted.value_at
    lanes_of = interpreted.lanes_of
    runs_at_once = interpreted.runs_at_once
    of_channel = interpreted.of_channel
    part = interpreted.part
    weighted_by = interpreted.weighted_by
    copy_vector = interpreted.copy_vector
    spread_samples = interpreted.spread_samples
    add_vector = interpreted.add_vector
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
    value_at = _make_value_at()
    lanes_of = _make_constant(_lanes_of)
    runs_at_once = _make_constant(_runs_at_once)
    of_channel = _make_of_channel()
    part = _make_part()
    weighted_by = _make_weighted_by()
    copy_vector = _make_copy_vector()
    spread_samples = _make_spread_samples()
    add_vector = _make_add_vector()
    repeat = _make_repeat()
    take_root = _make_take_root()
    take_root_one = _make_take_root(size=1)
    fence = _make_fence()
