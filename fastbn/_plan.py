"""How a call is cut into blocks: the one place that chooses kernels, from the shape alone.

Any array is seen as (N, C, L) in memory order: L values in a run, C channels, N samples. A plan is
an array of unsigned integers that the kernels read at the indices named here. The blocks of the
statistics depend on shape and dtype only, so results have the same bits at any number of threads;
the size of the last-level cache decides on the kind of store.
"""

import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Indices into a plan.
N, C, L = 0, 1, 2
PARTS = 3  # partial sums per channel
REDUCE_BY_ROWS, SAMPLES, CHANNELS, PIECE = 4, 5, 6, 7  # a block of _rows.reduce
WIDTH, TILE, HEIGHT = 8, 9, 10  # a block of _columns.reduce
WRITE_BY_ROWS, WRITE_WIDTH = 11, 12
AHEAD, STREAM = 13, 14  # whether to prefetch, and to store past the caches
SHIFT, SCRATCH = 15, 16  # offsets into the workspace, behind the partial sums
TILE_ROOM, WRITE_ROOM = 17, 18  # room for vectors that each begin on a cache line

BLOCK = 16384  # values in a block: 64 to 128 KB, a few microseconds
WIDEN = 256  # columns up to which narrow samples are put side by side: 20 % faster than 1024
COLUMNS = 1024  # columns in a tile: three float64 vectors of it, 24 KB, stay in L1
TILE_VALUES, TILE_ROWS = 32768, 64  # at least, so that a tile's set-up is a few percent of it
AHEAD_WIDTH = 512
MOST_PARTS = 512
LARGE = 65536  # values from which a team of threads pays for its launch


class Plan(NamedTuple):
    """The cut of one shape; ``array`` is what kernels see."""

    array: np.ndarray
    large: bool  # worth a team of threads


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


def _width(samples: int, values: int) -> int:
    """Columns of a row: a whole number of samples, of so many values each."""
    return values * max(1, min(WIDEN // values, samples))


def plan(shape: tuple[int, ...], axis: int, itemsize: int) -> Plan:
    """Cut a C-contiguous array of this shape, none of whose axes is empty."""
    n, c, run = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    total = n * c * run
    values = np.zeros(19, np.uintp)
    values[[N, C, L]] = n, c, run

    # Short runs leave most of a vector loop to its remainder: 7x7 by columns takes 46 us where
    # rows take 64 (of 3 MB, 19 us to read); 14x14 by rows 74, by columns 100.
    width = _width(n, c * run)
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
        height = max(TILE_ROWS, TILE_VALUES // tile, _ceil(total // width, MOST_PARTS))
        parts = max(1, _ceil(total // width, height))
        values[[WIDTH, TILE, HEIGHT]] = width, tile, height
    values[PARTS] = parts

    write_by_rows = run * itemsize >= 64
    wide = c if write_by_rows else width
    values[[WRITE_BY_ROWS, WRITE_WIDTH]] = write_by_rows, wide
    # Stores had better not go through the last-level cache when input and output do not fit it.
    values[STREAM] = 2 * total * itemsize >= last_level_cache()
    # Prefetching the next rows takes gradients of (25088, 128), 12 MB, from 318 to 245 us. Long
    # rows are better left to the processor: (6272, 1024) would go from 946 to 1123.
    values[AHEAD] = width <= AHEAD_WIDTH and 4 * total * itemsize >= last_level_cache()
    values[SHIFT] = 2 * parts * c
    values[SCRATCH] = _room(2 * parts * c + c)
    values[TILE_ROOM], values[WRITE_ROOM] = _room(int(values[TILE])), _room(wide)
    return Plan(values, total >= LARGE)
