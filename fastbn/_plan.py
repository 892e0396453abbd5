"""How a call is cut into blocks: the one place that chooses kernels, from the shape alone.

Any array is seen as (N, C, L) in memory order: L values in a run, C channels, N samples. A plan is
an array of unsigned integers that the kernels read at the indices named here. The blocks of the
statistics depend on shape and dtype only, so results have the same bits at any number of threads;
the size of the last-level cache decides on the kind of store.
"""

from functools import cache, lru_cache
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

BLOCK = 16384  # values in a block: 64 to 128 KB, a few microseconds
WIDEN = 256  # columns up to which narrow samples are put side by side: 20 % faster than 1024
COLUMNS = 1024  # columns in a tile: three float64 vectors of it, 24 KB, stay in L1
TILE_BLOCK = 32768  # values in a tile; folding its columns into channels is 1 % of the work
MOST_PARTS = 512
LARGE = 65536  # values from which a team of threads pays for its launch


class Plan(NamedTuple):
    """The cut of one shape; ``array`` is what kernels see."""

    array: np.ndarray
    n: int  # values per channel
    channels: int
    parts: int
    coefficients: int  # length of a coefficient vector when writing
    large: bool


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


def _width(samples: int, values: int) -> int:
    """Columns of a row: a whole number of samples, of so many values each."""
    return values * max(1, min(WIDEN // values, samples))


@lru_cache(maxsize=1024)
def plan(shape: tuple[int, ...], axis: int, itemsize: int) -> Plan:
    """Cut a C-contiguous array of this shape, none of whose axes is empty."""
    n = int(np.prod(shape[:axis], dtype=object))
    c = shape[axis]
    run = int(np.prod(shape[axis + 1 :], dtype=object))
    total = n * c * run
    values = np.zeros(17, np.uintp)
    values[[N, C, L]] = n, c, run

    # Short runs leave most of a vector loop to its remainder: 7x7 by columns takes 46 us where
    # rows take 64 (of 3 MB, 19 us to read); 14x14 by rows 74, by columns 100.
    by_rows = run >= 128 or (run >= 16 and n < 8)
    if by_rows:
        piece = _ceil(run, _ceil(run, BLOCK))
        rows = max(1, BLOCK // piece)
        samples = min(n, max(1, rows // 32, _ceil(n * _ceil(run, piece), MOST_PARTS)))
        channels = min(c, max(1, rows // samples))
        parts = _ceil(n, samples) * _ceil(run, piece)
        values[[REDUCE_BY_ROWS, SAMPLES, CHANNELS, PIECE]] = 1, samples, channels, piece
    else:
        width = _width(n, c * run)
        tile = width if width <= COLUMNS else max(1, COLUMNS // run) * run
        height = max(TILE_BLOCK // tile, _ceil(total // width, MOST_PARTS))
        parts = max(1, _ceil(total // width, height))
        values[[WIDTH, TILE, HEIGHT]] = width, tile, height
    values[PARTS] = parts

    write_by_rows = run * itemsize >= 64
    wide = c if write_by_rows else _width(n, c * run)
    values[[WRITE_BY_ROWS, WRITE_WIDTH]] = write_by_rows, wide
    # Input and output beyond the last-level cache: stores had better not go through it. Two inputs
    # and an output beyond it: prefetching takes 12 MB of (25088, 128) from 338 to 244 us.
    values[STREAM] = 2 * total * itemsize >= last_level_cache()
    values[AHEAD] = 3 * total * itemsize >= last_level_cache()
    values[SHIFT] = 2 * parts * c
    values[SCRATCH] = 2 * parts * c + c
    return Plan(values, n * run, c, parts, wide, total >= LARGE)
