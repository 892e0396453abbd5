"""Small things that both families of kernels share."""

import numpy as np

from . import _plan
from ._jit import address_of, block, span
from ._vectors import STREAMS, STREAMS_OF_BOTH, VECTOR_BYTES

ZERO, ONE, TWO, THREE, FOUR, EIGHT, NINE, SIXTEEN = (np.uintp(n) for n in (0, 1, 2, 3, 4, 8, 9, 16))

_STREAMS, _STREAMS_OF_BOTH = np.uintp(STREAMS), np.uintp(STREAMS_OF_BOTH)


@block
def at_once(dy):
    """How many runs or rows are summed at once."""
    return _STREAMS if dy is None else _STREAMS_OF_BOTH


@block
def lanes_of(array):
    """Values of a vector."""
    return np.uintp(VECTOR_BYTES // array.itemsize)


@block
def to_line(array, o):
    """Values from o to where the next cache line begins."""
    lanes = lanes_of(array)
    place = address_of(array) // np.uintp(array.itemsize) + o
    return (lanes - place % lanes) % lanes


@block
def same_memory(a, b):
    """Whether two flat arrays start at the same address; an absent one never does."""
    return False if b is None else address_of(a) == address_of(b)


@block
def streams(plan, out, x, dy):
    """Whether to store past the caches: not over what was just read."""
    wanted = plan[_plan.STREAM] if dy is None else plan[_plan.STREAM_BACKWARD]
    return wanted != ZERO and not (same_memory(out, x) or same_memory(out, dy))


@block
def shifts(plan, values):
    """What is subtracted of each channel before it is summed."""
    return span(values, EIGHT * plan[_plan.ROOM], plan[_plan.C])
