"""Explicit vectors of 64 bytes, for what LLVM's loop vectoriser does badly or not at all.

``affine`` computes a vector of an output; ``affine_stream`` stores it past the caches,
``affine_twice`` computes two with the same coefficients, and ``affine_pair`` serves a vector in
which one channel's run ends and the next begins, so that all of them lie on cache lines.
``add_rows`` adds rows to the sums of their columns, ``sum_run`` sums a run and ``sum_runs`` several
at once.

Sums of a handful of terms are taken in the data's own precision and added up in float64: float32
data then run at the speed of a bare read pass, where converting each value first takes twice as
long in the caches. The ``exact`` variants convert first, for what float32 cannot square.
"""

from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

from . import _interpreted
from ._vectors import CHAIN, UNROLL, VECTOR_BYTES, Emitter, RunSum, register_bytes


def _make_affine(size=VECTOR_BYTES, stream=False, pair=False, twice=False):
    """``out[o:] = ((dy[o:] +) (x[o:] - m) * b + c) (* a)``.

    Without ``dy`` there is no factor ``a``; without ``x`` the result is ``dy * a``. The
    coefficients are scalars, or arrays that are read from ``p``. With ``pair`` they are those at p
    for the first k values, and those at q for the others; with ``twice`` they serve the vector
    ``distance`` values behind o as well. A streaming store needs an aligned address.
    """
    further = ("q", "k") if pair else ("distance",) if twice else ()
    names = ("out", "x", "dy", "o", "m", "b", "c", "a", "p", *further)

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, names, signature, args, size)
        o, p = emit.values["o"], emit.values["p"]
        first = emit.before(emit.values["k"]) if pair else None

        def coefficient(name):
            if not pair:
                return emit.load(name, p)
            here, there = emit.element(name, p), emit.element(name, emit.values["q"])
            return builder.select(first, here, there)

        m, b, c = map(coefficient, "mbc") if emit.has("x") else (None, None, None)
        a = coefficient("a") if emit.has("dy") else None
        places = (o, builder.add(o, emit.values["distance"])) if twice else (o,)
        # Before anything is stored: a load waits for a store before it that is a multiple of 4 KB
        # away.
        results = [emit.affine(place, m, b, c, a) for place in places]
        for place, result in zip(places, results, strict=True):
            emit.store(result, "out", place, stream)
        return context.get_dummy_value()

    index = types.uintp
    if pair:

        @intrinsic
        def affine_pair(typing, out, x, dy, o, m, b, c, a, p, q, k):
            return types.void(out, x, dy, index, m, b, c, a, index, index, index), codegen

        return affine_pair
    if twice:

        @intrinsic
        def affine_twice(typing, out, x, dy, o, m, b, c, a, p, distance):
            return types.void(out, x, dy, index, m, b, c, a, index, index), codegen

        return affine_twice

    @intrinsic
    def affine(typing, out, x, dy, o, m, b, c, a, p):
        return types.void(out, x, dy, index, m, b, c, a, index), codegen

    return affine


def _make_add_rows():
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
            for k in range(emit.streams()):
                sums[k % 2] = emit.add(*emit.terms(place, shift), *sums[k % 2])
                place = builder.add(place, distance)
            emit.add_sums(*(builder.fadd(*pair) for pair in zip(*sums, strict=True)), j)
            return context.get_dummy_value()

        index = types.uintp
        return types.void(x, dy, index, index, shift, s1, s2, index), codegen

    return add_rows


def _make_add_exactly(size=VECTOR_BYTES):
    """The same of one row, in float64."""

    @intrinsic
    def add_exactly(typing, x, dy, o, shift, s1, s2, j):
        names = ("x", "dy", "o", "shift", "s1", "s2", "j")

        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, names, signature, args, size)
            j = emit.values["j"]
            place, shift = builder.add(emit.values["o"], j), emit.load("shift", j)
            emit.add_sums(*emit.add(*emit.terms(place, shift, wide=True)), j)
            return context.get_dummy_value()

        index = types.uintp
        return types.void(x, dy, index, shift, s1, s2, index), codegen

    return add_exactly


def _make_sum_run(exact):
    """``sum_run(x, dy, o, n, shift)``: sums of d and d * d, or of dy and dy * d, over a run.

    d = x - shift; the run begins at o and has n values, at least as many as a vector.
    """

    @intrinsic
    def sum_run(typing, x, dy, o, n, shift):
        names = ("x", "dy", "o", "n", "shift")
        result = types.UniTuple(types.float64, 2)

        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, names, signature, args, register_bytes(context))
            loop, n = RunSum(emit, exact), emit.values["n"]
            vectors = builder.udiv(n, loop.number(emit.lanes))
            # One loop: of two, the rest of a chain is unrolled, and spills.
            with cgutils.for_range(builder, builder.udiv(vectors, loop.number(UNROLL))) as each:
                loop.step(UNROLL)
                place = builder.urem(each.index, loop.number(CHAIN))
                with builder.if_then(builder.icmp_unsigned("==", place, loop.number(CHAIN - 1))):
                    loop.flush()
            with cgutils.for_range(builder, builder.urem(vectors, loop.number(UNROLL))):
                loop.step(1)
            rest = builder.urem(n, loop.number(emit.lanes))
            with builder.if_then(builder.icmp_unsigned("!=", rest, loop.number(0))):
                loop.step(1, keep=loop.rest(n))
            loop.flush()
            return context.make_tuple(builder, result, loop.results())

        element = x.dtype
        return result(x, dy, types.uintp, types.uintp, element), codegen

    return sum_run


def _make_sum_runs():
    """``sum_runs(x, dy, o, n, distance, shift)``: the same sums over several runs at once.

    The first begins at o, and each of the others so many values behind the one before.
    """

    @intrinsic
    def sum_runs(typing, x, dy, o, n, distance, shift):
        names = ("x", "dy", "o", "n", "distance", "shift")
        result = types.UniTuple(types.float64, 2)

        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, names, signature, args, register_bytes(context))
            loop, n, distance = RunSum(emit, False, 0), emit.values["n"], emit.values["distance"]
            vectors = builder.udiv(n, loop.number(emit.lanes))
            with cgutils.for_range(builder, builder.udiv(vectors, loop.number(2))):
                loop.together(distance, 2)
            odd = builder.urem(vectors, loop.number(2))
            with builder.if_then(builder.icmp_unsigned("!=", odd, loop.number(0))):
                loop.together(distance, 1)
            rest = builder.urem(n, loop.number(emit.lanes))
            with builder.if_then(builder.icmp_unsigned("!=", rest, loop.number(0))):
                loop.together(distance, 1, keep=loop.rest(n))
            return context.make_tuple(builder, result, loop.results())

        element = x.dtype
        return result(x, dy, types.uintp, types.uintp, types.uintp, element), codegen

    return sum_runs


def _make_fence():
    """Streaming stores are ordered with others only by a fence."""

    @intrinsic
    def fence(typing):
        def codegen(context, builder, signature, args):
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return types.void(), codegen

    return fence


if config.DISABLE_JIT:
    affine = affine_stream = _interpreted.make_affine()
    affine_pair = affine_pair_stream = _interpreted.make_affine(pair=True)
    affine_twice = affine_twice_stream = _interpreted.affine_twice
    affine_one = _interpreted.make_affine(size=1)
    add_rows = _interpreted.add_rows
    add_exactly = _interpreted.make_add_exactly()
    add_exactly_one = _interpreted.make_add_exactly(size=1)
    sum_run = _interpreted.make_sum_run(exact=False)
    sum_run_exact = _interpreted.make_sum_run(exact=True)
    sum_runs = _interpreted.sum_runs
    fence = _interpreted.fence
else:
    affine, affine_stream = _make_affine(), _make_affine(stream=True)
    affine_pair = _make_affine(pair=True)
    affine_pair_stream = _make_affine(pair=True, stream=True)
    affine_twice = _make_affine(twice=True)
    affine_twice_stream = _make_affine(twice=True, stream=True)
    affine_one = _make_affine(size=1)
    add_rows = _make_add_rows()
    add_exactly, add_exactly_one = _make_add_exactly(), _make_add_exactly(size=1)
    sum_run, sum_run_exact = _make_sum_run(exact=False), _make_sum_run(exact=True)
    sum_runs = _make_sum_runs()
    fence = _make_fence()
