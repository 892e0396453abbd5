"""A compiled copy of flat arrays that moves data and does nothing else: see floor.py."""

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

VECTOR_BYTES = 64
ONE, FOUR, EIGHT = np.uintp(1), np.uintp(4), np.uintp(8)

# "reassoc" lets a sum be many sums, which reads at the speed of memory
_block = numba.njit(error_model="numpy", fastmath={"reassoc", "nsz"})


@intrinsic
def _store_nontemporal(typing, out, x, dy, i):
    """``out[i:] = x[i:] (+ dy[i:])`` past the caches, for a vector that is aligned in ``out``."""

    def codegen(context, builder, signature, args):
        def vector(k):
            kind = signature.args[k]
            size = kind.dtype.bitwidth // 8
            data = context.make_array(kind)(context, builder, args[k]).data
            shape = ir.VectorType(context.get_data_type(kind.dtype), VECTOR_BYTES // size)
            return builder.bitcast(builder.gep(data, [args[3]]), shape.as_pointer()), size

        def load(k):
            pointer, size = vector(k)
            return builder.load(pointer, align=size)

        value = load(1)
        if signature.args[2] != types.none:
            value = builder.fadd(value, load(2))
        store = builder.store(value, vector(0)[0], align=VECTOR_BYTES)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.void(out, x, dy, types.uintp), codegen


@intrinsic
def _fence(typing):
    """Order non-temporal stores before whatever comes next."""

    def codegen(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@_block
def _read(x, dy, first, last):
    """The sum of a range, so that it is read."""
    total = x.dtype.type(0)
    for i in range(first, last):
        total += x[i] if dy is None else x[i] + dy[i]
    return total


@_block
def _read_places(x, dy, first, last):
    """`_read` at eight places at once, or four: more of two arrays would share a cache set."""
    places = EIGHT if dy is None else FOUR
    d, total = (last - first) // places, x.dtype.type(0)
    for i in range(first, first + d):
        for k in range(places):
            total += x[i + k * d] if dy is None else x[i + k * d] + dy[i + k * d]
    return total + _read(x, dy, first + places * d, last)


@_block
def _write(out, x, dy, first, last, nontemporal):
    """``out = x (+ dy)`` over a range."""
    if nontemporal:
        lanes = np.uintp(VECTOR_BYTES // out.itemsize)
        start = np.uintp(out.ctypes.data) // np.uintp(out.itemsize)
        head = min(last, first + (lanes - (start + first) % lanes) % lanes)
        _write(out, x, dy, first, head, False)
        first = head
        while first + lanes <= last:
            _store_nontemporal(out, x, dy, first)
            first += lanes
        _fence()
    for i in range(first, last):
        out[i] = x[i] if dy is None else x[i] + dy[i]


def _shares(threads, x, dy, out, sums, read, places, nontemporal):
    """Read x (and dy), then write their sum to out; each thread has one share of the values."""
    n, team = np.uintp(x.size), np.uintp(threads)
    if read:
        for t in prange(threads):
            first, last = n * np.uintp(t) // team, n * (np.uintp(t) + ONE) // team
            if places:
                sums[t] = _read_places(x, dy, first, last)
            else:
                sums[t] = _read(x, dy, first, last)
    if out is not None:
        for t in prange(threads):
            first, last = n * np.uintp(t) // team, n * (np.uintp(t) + ONE) // team
            _write(out, x, dy, first, last, nontemporal)


_serial = numba.njit(error_model="numpy")(_shares)
_parallel = numba.njit(error_model="numpy", parallel={"fusion": False})(_shares)


def copy(threads, inputs, out=None, read=False, places=False, nontemporal=False):
    """Read the inputs if asked to, and write their sum into `out` if there is one.

    With `places`, each thread reads from several places of memory at once; with `nontemporal`, it
    writes past the caches. Returns `out`, and of what has been read a sum for each thread.
    """
    x, *dy = inputs
    sums = np.zeros(threads, x.dtype)
    arguments = threads, x, dy[0] if dy else None, out, sums, read, places, nontemporal
    if threads == 1:
        _serial(*arguments)
    else:
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        try:
            _parallel(*arguments)
        finally:
            numba.set_num_threads(before)
    return out, sums
