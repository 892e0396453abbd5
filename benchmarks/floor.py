"""The memory floor: the time that moving a pass's data takes, without any arithmetic to speak of.

- *one pass*: a forward pass reads x and writes as much, a backward pass reads x and dy and writes
  as much. Where data come from memory, nothing is faster.
- *two passes*: the inputs are read once before, since no output can be written before the
  statistics are known. Nothing that does not keep data in caches between the two is faster.

Each is the best of plain and streaming (non-temporal) stores, with all threads that fastbn has,
and with one where starting a team may take longer than the work. Larger inputs are also read from
several places of memory at once. They are calls like a library's,
to be timed in turn with what they judge, in the same process.
"""

from functools import partial
from itertools import product

import numpy as np

from .sweeps import sweep

NAMES = ("one pass", "two passes")
OF_ONE_PASS = ("evaluation", "statistics")  # the statistics are known; nothing is written
SERIAL = 1 << 22  # bytes of x up to which one thread may be the best


def calls(operation, data, given=False):
    """{name: [call, ...]}: the variants of each floor, the best of which it is.

    `given`: into one array that is kept, like calls with ``out=``, and not into a new one each.
    """
    import fastbn

    arrays = (data.x, data.dy) if operation == "backward" else (data.x,)
    inputs = [flat(array, data.layout) for array in arrays]
    writes = operation != "statistics"
    new = partial(np.empty, data.x.size, data.dtype) if writes else lambda: None
    kept = new()
    most = fastbn.get_num_threads()
    teams = {1, most} if data.x.nbytes <= SERIAL else {most}

    def variant(*how):
        return lambda: sweep(how[0], inputs, kept if given else new(), *how[1:])

    def variants(read):
        several = (False, True) if read and data.x.nbytes > SERIAL else (False,)
        streams = (False, True) if writes else (False,)
        return [variant(t, read, *how) for t in teams for how in product(several, streams)]

    names = NAMES[:1] if operation in OF_ONE_PASS else NAMES
    return {name: variants(name == "two passes" or not writes) for name in names}


def flat(array, layout):
    """The values in the order of memory, without a copy."""
    return (np.moveaxis(array, 1, -1) if layout == "channels_last" else array).reshape(-1)
