"""How a call is cut into blocks: the one place that chooses kernels, from the shape alone.

Any array is seen as (N, C, L) in memory order: L values in a run, C channels, N samples. A plan is
an array of unsigned integers that the kernels read at the indices named here. The blocks of the
statistics depend on shape and dtype only, so results have the same bits at any number of threads;
the size of the last-level cache decides on the kind of store.
"""

import math
from functools import cache
from pathlib import Path

import numpy as np

from ._vectors import STREAMS, VECTOR_BYTES
from ._workspace import Pool

# Indices into a plan.
N, C, L = 0, 1, 2
PARTS = 3  # partial sums per channel
REDUCE_BY_ROWS, SAMPLES, CHANNELS, PIECE = 4, 5, 6, 7  # a block of _rows.reduce
WIDTH, TILE, HEIGHT = 8, 9, 10  # a block of _columns.reduce
WRITE_BY_ROWS, WRITE_WIDTH = 11, 12
WRITE_UNIT = 13  # values of whole rows that are whole vectors
ALIGN, STREAM, STREAM_BACKWARD = 14, 15, 16  # whether to store whole lines, past the caches
BLOCKS = 17  # of _rows.reduce or _columns.reduce
# Offsets into the float64 workspace, behind the partial sums: two sums and a mark for each channel,
# count and eps, then two vectors of TILE_ROOM values for each thread.
SUMS, LOST, NUMBERS, SCRATCH, TILE_ROOM = 18, 19, 20, 21, 22
# The workspace of the data's dtype holds four coefficients of each channel, the same of each column
# of a wide row, and a shift of each channel, in vectors of ROOM values; then a vector of TILE_ROOM
# values for each thread.
ROOM = 23
SIZE = 24

NEAR = 512  # values of a sample; short runs of shorter ones are summed by columns
BLOCK = 16384  # values in a block: 64 to 128 KB, a few microseconds
NARROW = 256  # bytes of a row that is summed, or twice as many, where samples fit
WIDEN = 256  # columns up to which narrow samples are put side by side, so that vectors are full
COLUMNS = 4096  # columns in a tile: its sums fit 64 KB; narrower tiles of (4096, 4096) take longer
WRITE_COLUMNS = 512  # columns up to which narrow samples are put side by side to be written
# Blocks of columns are large: their partial sums travel between cores, and (6272, 256) takes 142 us
# in 98 blocks, 71 us in 2; (1568, 2048) 593 in ones of half the size, 535 in these.
TILE_VALUES, LEAST_TILES, MOST_TILES = 1 << 18, 8, 128
MOST_SUMS = 1 << 16  # partial sums of an array's columns, which one thread merges
MOST_PARTS = 512
LARGE = 65536  # values from which a team of threads pays for its launch
# From how many last-level caches of data these are of no use, and stores go past them. 13 MB and a
# cache of 32 so take 0.73 to 0.86 of the time among other work; 1.1 times if the output is read at
# once and nothing else is, 0.9 among other work. Of 20 MB, output and one reading of it would take
# 1.2 to 1.5 times as long.
STREAM_CACHES = 0.75
SLAB_BYTES = 1 << 20  # of the inputs, that a thread reduces and then writes
# From how many last-level caches of data, and groups of channels a thread, slabs pay.
FUSE_CACHES, FUSE_GROUPS = 1.5, 4


class Plan:
    """The cut of one shape; ``array`` is what kernels see."""

    def __init__(self, array: np.ndarray, dtype: np.dtype):
        self.array, self.dtype = array, dtype
        n, c, run, scratch, room, tile = (
            int(array[k]) for k in (N, C, L, SCRATCH, ROOM, TILE_ROOM)
        )
        self.large = n * c * run >= LARGE  # worth a team of threads
        self.pool = Pool(array, scratch, 9 * room, tile, dtype)
        self.steps: dict[tuple, tuple] = {}  # of `_passes`, for each task

    def slab(self, inputs: int, threads: int) -> int:
        """Groups of channels that a thread sums and then writes; 0 to take whole arrays."""
        n, c, run, group = (int(self.array[k]) for k in (N, C, L, CHANNELS))
        by_rows = self.array[REDUCE_BY_ROWS] and self.array[WRITE_BY_ROWS]
        size = n * c * run * self.dtype.itemsize
        beyond_caches = (inputs + 1) * size >= FUSE_CACHES * last_level_cache()
        if not (self.large and by_rows and beyond_caches) or c < FUSE_GROUPS * group * threads:
            return 0
        return max(1, SLAB_BYTES * c // (inputs * size * group))


@cache
def last_level_cache() -> int:
    """Bytes of the last-level cache; 32 MB where the system does not say."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) << 10)
    return max(sizes, default=32 << 20)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _room(n: int) -> int:
    """``n`` values rounded up to whole cache lines, of any dtype."""
    return _ceil(n, 16) * 16


def _divisor(n: int, most: int) -> int:
    """The largest divisor of ``n`` up to ``most``; or ``most``, if that is twice as much."""
    found = next(k for k in range(most, 0, -1) if n % k == 0)
    return found if 2 * found > most else most


def _width(samples: int, values: int, itemsize: int) -> int:
    """Columns of a row that is summed: a whole number of samples, of so many values each.

    `NARROW` bytes or twice as many if possible, or else whole vectors.
    """
    for width in (NARROW // itemsize, 2 * NARROW // itemsize):
        if width % values == 0 and width // values <= samples:
            return width
    unit = math.lcm(values, 64 // itemsize)
    unit = unit if unit <= WIDEN and unit // values <= samples else values
    return unit * max(1, min(WIDEN // unit, samples * values // unit))


def _side_by_side(samples: int, values: int, most: int) -> int:
    """Columns of a row that is written: a whole number of samples."""
    return values * max(1, min(most // values, samples))


def _parts(rows: int, width: int, tiles: int) -> int:
    """Blocks of rows: few, but enough for many threads, and alike for 2, 4 and 8 of them."""
    wanted = min(max(rows * width // TILE_VALUES, LEAST_TILES), MOST_TILES)
    parts = _ceil(_ceil(wanted, tiles), 8) * 8 if tiles < 8 else _ceil(wanted, tiles)
    return max(1, min(parts, rows // STREAMS, MOST_SUMS // width))


def plan(shape: tuple[int, ...], axis: int, itemsize: int) -> Plan:
    """Cut a C-contiguous array of this shape, none of whose axes is empty."""
    n, c, run = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    total = n * c * run
    values = np.zeros(SIZE, np.uintp)
    values[[N, C, L]] = n, c, run

    # By rows, (32, 512, 4, 4) is summed in 46 us, by columns in 85; but (50000, 4, 25), whose
    # samples lie near each other, in 1.4 ms instead of 0.5. A vector needs 16 values.
    width = _width(n, c * run, itemsize)
    by_rows = run >= 128 or (run >= 16 and (n < STREAMS or c * run >= NEAR))
    if by_rows:
        piece = _ceil(run, _ceil(run, BLOCK))
        rows = max(1, BLOCK // piece)
        samples = min(n, max(1, rows // 32, _ceil(n * _ceil(run, piece), MOST_PARTS)))
        samples = min(n, _ceil(samples, STREAMS) * STREAMS)
        channels = _divisor(c, min(c, max(1, rows // samples)))
        parts = _ceil(n, samples) * _ceil(run, piece)
        values[[REDUCE_BY_ROWS, SAMPLES, CHANNELS, PIECE]] = 1, samples, channels, piece
        values[BLOCKS] = parts * _ceil(c, channels)
    else:
        tile = width if width <= COLUMNS else max(1, COLUMNS // run) * run
        rows = total // width
        height = max(1, _ceil(rows, _parts(rows, width, _ceil(width, tile))))
        height = min(rows, _ceil(height, STREAMS) * STREAMS)
        parts = max(1, _ceil(rows, height))
        values[[WIDTH, TILE, HEIGHT]] = width, tile, height
        values[BLOCKS] = parts * _ceil(width, tile)
    values[PARTS] = parts

    write_by_rows = run * itemsize >= 64
    values[WRITE_BY_ROWS] = write_by_rows
    # Coefficients are widened for each call; but a row holds a vector, if there is one.
    most = min(WRITE_COLUMNS, max(2 * VECTOR_BYTES // itemsize, total // 8))
    values[WRITE_WIDTH] = c if write_by_rows else _side_by_side(n, c * run, most)
    values[WRITE_UNIT] = math.lcm(int(values[WRITE_WIDTH]), VECTOR_BYTES // itemsize)
    size = total * itemsize
    enough = STREAM_CACHES * last_level_cache()
    values[STREAM], values[STREAM_BACKWARD] = 2 * size >= enough, 3 * size >= enough
    values[ALIGN] = total >= LARGE or values[STREAM_BACKWARD]  # streaming stores need it
    values[[SUMS, LOST, NUMBERS]] = (2 * parts + np.array([0, 2, 3])) * c
    values[SCRATCH] = _room(int(values[NUMBERS]) + 2)
    values[TILE_ROOM] = _room(int(values[TILE]))
    values[ROOM] = _room(max(c, int(values[WRITE_WIDTH])) + 32)
    return Plan(values, np.dtype(f"f{itemsize}"))
