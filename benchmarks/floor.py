"""The memory floor: the time that moving a pass's data takes, without any arithmetic to speak of.

- *one pass*: a forward pass reads x and writes as much, a backward pass reads x and dy and writes
  as much as one of them. Where data come from memory, nothing is faster.
- *two passes*: the inputs are read once before, since no output can be written before the
  statistics are known. Nothing that does not keep data in caches between the two is faster.

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

NAMES = ("one pass", "two passes")
OF_ONE_PASS = ("evaluation", "statistics")  # the statistics are known; nothing is written
SERIAL = 1 << 22  # bytes of x up to which one thread may be the best


def calls(operation, data, given=False):
    """{name: [call, ...]}: the variants of each floor, the best of which it is.

    `given`: into one array that is kept, like calls with ``out=``, and not into a new one each.
    """
    arrays = (data.x, data.dy) if operation == "backward" else (data.x,)
    if data.layout == "channels_last":
        arrays = [np.moveaxis(array, 1, -1) for array in arrays]
    inputs = [array.reshape(-1) for array in arrays]  # no copy: the order of memory
    writes, large = operation != "statistics", data.x.nbytes > SERIAL
    new = partial(np.empty, data.x.size, data.dtype) if writes else lambda: None
    kept = new() if given else None
    most = fastbn.get_num_threads()
    teams = {most} if large else {1, most}

    def variant(threads, read, places, nontemporal):
        return lambda: copy(threads, inputs, kept if given else new(), read, places, nontemporal)

    def variants(read):
        places = (False, True) if read and large else (False,)
        stores = (False, True) if writes else (False,)
        return [variant(*how) for how in product(teams, (read,), places, stores)]

    names = NAMES[:1] if operation in OF_ONE_PASS else NAMES
    return {name: variants(name == "two passes" or not writes) for name in names}
