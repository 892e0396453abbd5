"""The memory floor: the time that moving a pass's data takes, without any arithmetic to speak of.

- *one pass*: a forward pass reads x and writes as much, a backward pass reads x and dy and writes
  as much as one of them. Where data come from memory, nothing is faster.
- *two passes*: the inputs are read once before, since no output can be written before the
  statistics are known. Nothing that does not keep data in caches between the two is faster.

Of a step, one pass is that of its forward and then of its backward: x, dy and the outputs, and what
a residual adds, which are itself, its gradient and the signs of y, which have to come from y or it.
A mask is small.

Each is the best of several copies: with plain and with non-temporal stores; with all threads that
fastbn has, and with one where starting a team may take longer than the work; and, where larger
inputs are read first, from one and from several places of memory at once. They are calls like a
library's, which take turns with what they judge, in the same process.
"""

from functools import partial
from itertools import product

import numpy as np

import fastbn

from .copies import copy
from .libraries import STEPS

NAMES = ("one pass", "two passes")
OF_TWO_PASSES = (
    "forward",
    "training",
    "module",
    "backward",
)  # others: known statistics, no output, a step
READ = {  # what is read for each array that is written; else x
    "backward": ("x dy",),
    **dict.fromkeys((*STEPS, "module_step"), ("x", "x dy")),
    "step_residual_relu": ("x residual", "x dy", "residual"),
}
SERIAL = 1 << 22  # bytes of x up to which one thread may be the best


def calls(operation, data, given=False):
    """{name: [call, ...]}: the variants of each floor, the best of which it is.

    A call returns (output, sums) of each copy. `given`: into one array that is kept, like calls
    with ``out=``, and not into a new one each.
    """
    read = READ.get(operation, ("x",))
    copies = [[_flat(data, name) for name in names.split()] for names in read]
    writes, large = operation != "statistics", data.x.nbytes > SERIAL
    new = partial(np.empty_like, copies[0][0]) if writes else lambda: None
    kept = new() if given else None
    most = fastbn.get_num_threads()
    teams = {most} if large else {1, most}

    def variant(threads, read, places, nontemporal):
        how = read, places, nontemporal
        return lambda: [copy(threads, some, kept if given else new(), *how) for some in copies]

    def variants(read):
        places = (False, True) if read and large else (False,)
        stores = (False, True) if writes else (False,)
        return [variant(*how) for how in product(teams, (read,), places, stores)]

    names = NAMES if operation in OF_TWO_PASSES else NAMES[:1]
    return {name: variants(name == "two passes" or not writes) for name in names}


def _flat(data, name):
    """An array in the order of memory, without a copy; 16-bit values two by two, as float32.

    Of an odd number of these, the last one is left out.
    """
    array = getattr(data, name)
    if data.layout == "channels_last":
        array = np.moveaxis(array, 1, -1)
    flat = array.reshape(-1)
    odd = flat.size % (data.compute.itemsize // flat.itemsize)
    return flat[: flat.size - odd].view(data.compute)
