"""Explicit vectors of 64 bytes, for what LLVM's loop vectoriser does badly or not at all.

``affine`` computes a vector of an output; ``affine_stream`` stores it past the caches, and
``affine_pair`` serves a vector in which one channel's run ends and the next begins, so that all of
them lie on cache lines. ``accumulate`` adds rows to the sums of their columns, ``sum_run`` sums a
run.

Sums of a handful of terms are taken in the data's own precision and added up in float64: float32
data then run at the speed of a bare read pass, where converting each value first takes twice as
long in the caches. The ``exact`` variants convert first, for what float32 cannot square.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

from ._vectors import CHAIN, UNROLL, VECTOR_BYTES, Emitter, RunSum, register_bytes


def _make_affine(size=VECTOR_BYTES, stream=False, pair=False):
    """``out[o:] = ((dy[o:] +) (x[o:] - m) * b + c) (* a)``.

    Without ``dy`` there is no factor ``a``; without ``x`` the result is ``dy * a``. The
    coefficients are scalars, or arrays that are read from ``p``. With ``pair`` they are those at p
    for the first k values, and those at q for the others. A streaming store needs an aligned
    address.
    """
    names = ("out", "x", "dy", "o", "m", "b", "c", "a", "p", *(("q", "k") if pair else ()))

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, names, signature, args, size)
        o, p = emit.values["o"], emit.values["p"]
        first = emit.before(emit.values["k"]) if pair else None

        def coefficient(name):
            if not pair:
                return emit.load(name, p)
            here, there = emit.element(name, p), emit.element(name, emit.values["q"])
            return builder.select(first, here, there)

        result = None
        if emit.has("x"):
            centred = builder.fsub(emit.load("x", o), coefficient("m"))
            result = emit.multiply_add(centred, coefficient("b"), coefficient("c"))
        if emit.has("dy"):
            dy = emit.load("dy", o)
            total = dy if result is None else builder.fadd(dy, result)
            result = builder.fmul(total, coefficient("a"))
        emit.store(result, "out", o, stream)
        return context.get_dummy_value()

    index = types.uintp
    if pair:

        @intrinsic
        def affine_pair(typing, out, x, dy, o, m, b, c, a, p, q, k):
            return types.void(out, x, dy, index, m, b, c, a, index, index, index), codegen

        return affine_pair

    @intrinsic
    def affine(typing, out, x, dy, o, m, b, c, a, p):
        return types.void(out, x, dy, index, m, b, c, a, index), codegen

    return affine


def _make_accumulate(rows, ahead=False, size=VECTOR_BYTES, exact=False):
    """Add d and d * d, d = x - shift, of some rows to the float64 sums of columns from j on.

    With ``dy``: dy and dy * d. A row has ``width`` values, the first begins at ``o``. ``ahead``
    prefetches the block of as many rows that follows, line by line in the order of memory.
    """

    @intrinsic
    def accumulate(typing, x, dy, o, width, shift, s1, s2, j):
        names = ("x", "dy", "o", "width", "shift", "s1", "s2", "j")

        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, names, signature, args, size)
            width, j = emit.values["width"], emit.values["j"]

            def number(n):
                return ir.Constant(width.type, n)

            shifts, start = emit.load("shift", j), emit.values["o"]
            following = builder.add(start, builder.mul(number(rows), builder.add(width, j)))
            total = products = None
            for _ in range(rows):
                u, d = emit.terms(builder.add(start, j), shifts, exact)
                if total is None:
                    total, products = u, builder.fmul(u, d)
                else:
                    total, products = builder.fadd(total, u), emit.multiply_add(u, d, products)
                if ahead:
                    for name in ("x", "dy") if emit.has("dy") else ("x",):
                        emit.prefetch(name, following)
                    following = builder.add(following, number(emit.lanes))
                start = builder.add(start, width)
            for which, (name, value) in enumerate((("s1", total), ("s2", products))):
                new = emit.add_terms(emit.load(name, j), emit.double(value), which)
                emit.store(new, name, j)
            return context.get_dummy_value()

        index = types.uintp
        return types.void(x, dy, index, index, shift, s1, s2, index), codegen

    return accumulate


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
                # the last vector again, as far as it is new
                done = builder.sub(loop.number(emit.lanes), rest)
                builder.store(builder.sub(builder.load(loop.at), done), loop.at)
                loop.step(1, keep=builder.not_(emit.before(done)))
            loop.flush()
            totals = [emit.total(builder.load(total)) for total in loop.totals]
            return context.make_tuple(builder, result, totals)

        element = x.dtype
        return result(x, dy, types.uintp, types.uintp, element), codegen

    return sum_run


def _make_fence():
    """Streaming stores are ordered with others only by a fence."""

    @intrinsic
    def fence(typing):
        def codegen(context, builder, signature, args):
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return types.void(), codegen

    return fence


def _python_affine(size=VECTOR_BYTES, pair=False):
    def affine(out, x, dy, o, m, b, c, a, p, q=0, k=None):
        n = max(1, size // out.itemsize)
        here = slice(int(o), int(o) + n)
        if pair:
            place = np.where(np.arange(n) < k, p, q).astype(np.intp)
            m, b, c, a = (v[place] for v in (m, b, c, a))
        else:
            m, b, c, a = (v[int(p) : int(p) + n] if np.ndim(v) else v for v in (m, b, c, a))
        result = 0 if x is None else (x[here] - m) * b + c
        out[here] = result if dy is None else (dy[here] + result) * a

    return affine


def _python_accumulate(rows, size=VECTOR_BYTES, exact=False):
    def accumulate(x, dy, o, width, shift, s1, s2, j):
        there = slice(int(j), int(j) + max(1, size // x.itemsize))
        total = products = 0
        for row in range(rows):
            start = int(o) + row * int(width)
            here = slice(start + there.start, start + there.stop)
            u, d = _python_terms(x[here], None if dy is None else dy[here], shift[there], exact)
            total, products = total + u, products + u * d
        s1[there] += total
        s2[there] += products

    return accumulate


def _python_terms(x, dy, shift, exact):
    if exact:
        x, shift = x.astype(np.float64), np.float64(shift)
        dy = dy if dy is None else dy.astype(np.float64)
    d = x - shift
    return (d if dy is None else dy), d


def _python_sum_run(exact):
    def sum_run(x, dy, o, n, shift):
        here = slice(int(o), int(o) + int(n))
        u, d = _python_terms(x[here], None if dy is None else dy[here], shift, exact)
        s1 = s2 = np.float64(0)
        for i in range(0, u.size, CHAIN):
            s1 += u[i : i + CHAIN].sum()
            s2 += (u[i : i + CHAIN] * d[i : i + CHAIN]).sum()
        return s1, s2

    return sum_run


def _no_fence():
    """Plain Python has no streaming stores to order."""


if config.DISABLE_JIT:
    affine = affine_stream = _python_affine()
    affine_pair = affine_pair_stream = _python_affine(pair=True)
    affine_one = _python_affine(size=1)
    accumulate_eight = accumulate_eight_ahead = _python_accumulate(8)
    accumulate_four = accumulate_four_ahead = _python_accumulate(4)
    accumulate_exact = _python_accumulate(1, exact=True)
    accumulate_exact_one = _python_accumulate(1, size=1, exact=True)
    sum_run, sum_run_exact = _python_sum_run(exact=False), _python_sum_run(exact=True)
    fence = _no_fence
else:
    affine, affine_stream = _make_affine(), _make_affine(stream=True)
    affine_pair = _make_affine(pair=True)
    affine_pair_stream = _make_affine(pair=True, stream=True)
    affine_one = _make_affine(size=1)
    accumulate_eight, accumulate_eight_ahead = _make_accumulate(8), _make_accumulate(8, ahead=True)
    accumulate_four, accumulate_four_ahead = _make_accumulate(4), _make_accumulate(4, ahead=True)
    accumulate_exact = _make_accumulate(1, exact=True)
    accumulate_exact_one = _make_accumulate(1, size=1, exact=True)
    sum_run, sum_run_exact = _make_sum_run(exact=False), _make_sum_run(exact=True)
    fence = _make_fence()
