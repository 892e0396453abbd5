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

# Indices into a plan.
N, C, L = 0, 1, 2
PARTS = 3  # partial sums per channel
REDUCE_BY_ROWS, SAMPLES, CHANNELS, PIECE = 4, 5, 6, 7  # a block of _rows.reduce
WIDTH, TILE, HEIGHT = 8, 9, 10  # a block of _columns.reduce
WRITE_BY_ROWS, WRITE_WIDTH = 11, 12
AHEAD, AHEAD_BACKWARD = 13, 14  # whether to sum four rows at once and prefetch, instead of eight
ALIGN, STREAM, STREAM_BACKWARD = 15, 16, 17  # whether to store whole lines, past the caches
# Offsets into the float64 workspace, behind the partial sums: a shift, two sums and a mark for each
# channel, then two vectors of TILE_ROOM values for each thread.
SHIFT, SUMS, LOST, SCRATCH, TILE_ROOM = 18, 19, 20, 21, 22
# The workspace of the data's dtype holds four coefficients of each channel, the same of each column
# of a wide row, in vectors of ROOM values; then TILE_ROOM values for each thread.
ROOM = 23

BLOCK = 16384  # values in a block: 64 to 128 KB, a few microseconds
NARROW = 256  # bytes of a row that is summed in registers; twice as many, too
WIDEN = 256  # columns up to which narrow samples are put side by side, so that vectors are full
COLUMNS = 2048  # columns in a tile: their sums, 32 KB, stay in the nearest caches
WRITE_COLUMNS = 512  # columns up to which narrow samples are put side by side to be written
# Blocks of columns are large: their partial sums travel between cores, and (6272, 256) takes 142 us
# in 98 blocks, 71 us in 2.
TILE_VALUES, LEAST_TILES, MOST_TILES = 1 << 17, 8, 128
MOST_SUMS = 1 << 16  # partial sums of an array's columns, which one thread merges
MOST_PARTS = 512
SPARE_BYTES = 1 << 16  # of a workspace that is kept for the next call
LARGE = 65536  # values from which a team of threads pays for its launch
# Bytes of x, and columns, beyond which four rows at once, prefetched, are faster than eight. Fixed
# numbers, because how many are summed in float32 shows in the last bits.
AHEAD_BYTES, AHEAD_BYTES_BACKWARD, AHEAD_WIDTH_BACKWARD = 32 << 20, 8 << 20, 512


Workspace = tuple[
    int, np.ndarray, np.ndarray
]  # threads, float64 values, values of the data's dtype


class Plan:
    """The cut of one shape; ``array`` is what kernels see."""

    def __init__(self, array: np.ndarray, dtype: np.dtype, large: bool):
        self.array, self._dtype = array, dtype
        self.large = large  # worth a team of threads
        self._spare: list[Workspace] = []

    def take(self, threads: int) -> Workspace:
        """Room for a pass on so many threads; small ones are used again."""
        try:
            found = self._spare.pop()
        except IndexError:
            found = None
        if found is not None and found[0] >= threads:
            return found
        tile = int(self.array[TILE_ROOM])
        work = _aligned(int(self.array[SCRATCH]) + 2 * tile * threads, np.dtype(np.float64))
        return threads, work, _aligned(8 * int(self.array[ROOM]) + tile * threads, self._dtype)

    def give(self, workspace: Workspace) -> None:
        """Take back what a pass no longer needs."""
        _, work, values = workspace
        if work.nbytes + values.nbytes <= SPARE_BYTES and not self._spare:
            self._spare.append(workspace)


def _aligned(n: int, dtype: np.dtype) -> np.ndarray:
    """An array that begins on a cache line: others take sums by columns from 74 to 146 us."""
    raw = np.empty(n + 64 // dtype.itemsize, dtype)
    start = -raw.__array_interface__["data"][0] % 64 // dtype.itemsize
    return raw[start : start + n]


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
    return max(1, min(parts, rows // 8, MOST_SUMS // width))


def plan(shape: tuple[int, ...], axis: int, itemsize: int) -> Plan:
    """Cut a C-contiguous array of this shape, none of whose axes is empty."""
    n, c, run = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    total = n * c * run
    values = np.zeros(24, np.uintp)
    values[[N, C, L]] = n, c, run

    # Short runs leave most of a vector loop to its remainder: 7x7 by columns takes 46 us where
    # rows take 64 (of 3 MB, 19 us to read); 14x14 by rows 74, by columns 100.
    width = _width(n, c * run, itemsize)
    by_rows = run >= 128 or (run >= 16 and n < 8)
    if by_rows:
        piece = _ceil(run, _ceil(run, BLOCK))
        rows = max(1, BLOCK // piece)
        samples = min(n, max(1, rows // 32, _ceil(n * _ceil(run, piece), MOST_PARTS)))
        channels = min(c, max(1, rows // samples))
        parts = _ceil(n, samples) * _ceil(run, piece)
        values[[REDUCE_BY_ROWS, SAMPLES, CHANNELS, PIECE]] = 1, samples, channels, piece
    else:
        tile = width if width <= COLUMNS else max(1, COLUMNS // run) * run
        rows = total // width
        height = max(1, _ceil(rows, _parts(rows, width, _ceil(width, tile))))
        parts = max(1, _ceil(rows, height))
        values[[WIDTH, TILE, HEIGHT]] = width, tile, height
    values[PARTS] = parts

    write_by_rows = run * itemsize >= 64
    values[WRITE_BY_ROWS] = write_by_rows
    values[WRITE_WIDTH] = c if write_by_rows else _side_by_side(n, c * run, WRITE_COLUMNS)
    size = total * itemsize
    slow = AHEAD_BYTES_BACKWARD if width <= AHEAD_WIDTH_BACKWARD else AHEAD_BYTES
    values[[AHEAD, AHEAD_BACKWARD]] = size > AHEAD_BYTES, size > slow
    # Stores had better not go through the last-level cache when input and output do not fit it.
    values[STREAM] = 2 * size >= last_level_cache()
    values[STREAM_BACKWARD] = 3 * size >= last_level_cache()
    values[ALIGN] = total >= LARGE or values[STREAM_BACKWARD]  # streaming stores need it
    values[[SHIFT, SUMS, LOST, SCRATCH]] = (2 * parts + np.array([0, 1, 3, 4])) * c
    values[SCRATCH] = _room(int(values[SCRATCH]))
    values[TILE_ROOM] = _room(int(values[TILE]))
    values[ROOM] = _room(max(c, int(values[WRITE_WIDTH])) + 32)
    return Plan(values, np.dtype(f"f{itemsize}"), total >= LARGE)
