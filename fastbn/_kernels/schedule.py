"""How a call is cut into blocks: the one place that chooses kernels and stores.

Any array is seen as (N, C, L) in memory order: L values in a run, C channels, N samples. The blocks
of the statistics depend on shape and dtype only, so results have the same bits at any number of
threads. The walk through memory and the kind of store depend on threads and on the processor's
caches (`caches`), and change no bit. Times are those of 2 cores of an AMD EPYC (2026-11).
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .._runtime import caches
from . import abi
from .abi import BEYOND, INTERLEAVED, VECTOR_BYTES

SHORT_SAMPLE = 512  # values of a sample; short runs of shorter ones are summed by columns
BLOCK = 16384  # values in a block: 64 to 128 KB, a few microseconds
NARROW = 256  # bytes of a row that is summed, or twice as many, where samples fit
WIDEN = 256  # columns up to which narrow samples are put side by side, so that vectors are full
UNIT = 64  # columns in a tile, and more where a channel has them: what a thread can be given
COLUMNS = 4096  # columns at once, whose sums fit 64 KB; (4096, 4096) takes longer with fewer
WRITE_COLUMNS = 512  # columns up to which narrow samples are put side by side to be written
# Blocks of columns are large: their partial sums travel between cores, and (6272, 256) takes 142 us
# in 98 blocks, 71 us in 2; (1568, 2048) 593 in ones of half the size, 535 in these.
TILE_VALUES, MIN_TILES, MAX_TILES = 1 << 18, 8, 128
WEIGHTED = 512  # columns at once, or a tile, of several rows of which the weights fit 16 KB
BESIDE = 2048  # values beside which there are weights, at least, where an output is written
MAX_SUMS = 1 << 16  # partial sums of an array's columns, which one thread merges
MAX_PARTS = 512
LARGE = 65536  # values from which a team of threads pays for its launch
# Rows, or an eighth as many as columns, that are few: taken so many columns at a time, each summed
# and then written, (100, 4000) takes 47 us, as a whole 84; (1024, 1024) 103 and 95.
FEW_ROWS, FEWER_THAN_COLUMNS, TILE = 128, 8, 1024
EVEN = 1.07  # most that the largest share of a team may be of the mean


class Walk(NamedTuple):
    """How a pass goes through memory, and how it stores: no bit depends on it."""

    slab: int  # units that a thread sums and then writes; 0 to take whole arrays
    nontemporal: bool  # stores go past the caches


# In place of `Plan.walk`, for benchmarks and tests: of plans that are made meanwhile, not of those
# that an earlier `Saved` has.
choose: Callable[["Plan", int, int, bool], Walk] | None = None


class Plan:
    """The cut of one shape: the fields of `abi.PLAN` in ``cut``, and in ``record`` for kernels."""

    def __init__(self, cut: dict[str, int], dtype: np.dtype, storage: np.dtype):
        self.cut, self.record = cut, abi.record(abi.PLAN, cut)
        self.dtype, self.storage = dtype, storage
        # Threads that it is worth: a launch takes about as long as half of `LARGE` values do.
        self.team = max(1, 2 * cut["size"] // LARGE) if cut["size"] >= LARGE else 1
        self.pool = abi.Pool(self.record, cut, dtype)
        self.pool_with_options = abi.Pool(self.record, cut, dtype, options=True)
        self.steps: dict[tuple, Any] = {}  # of `passes`, for each task

    @property
    def nbytes(self) -> int:
        """Bytes of an array of this shape."""
        return self.cut["size"] * self.storage.itemsize

    def walk(self, inputs: int, threads: int, both: bool) -> Walk:
        """For a pass over one or two inputs; ``both``: it sums and writes."""
        if choose is not None:
            return choose(self, inputs, threads, both)
        units = self.cut["units"]
        outgrown = (inputs + 1) * self.nbytes >= caches.outgrown(inputs, threads)
        share = self.share(threads)
        if not (both and self.team > 1 and self.in_slabs and share * threads <= EVEN * units):
            return Walk(0, outgrown)
        if not self.cut["reduce_by_rows"]:
            return Walk(max(1, min(share, TILE // self.cut["tile"])), outgrown)
        return Walk(self.slab(inputs, caches.slab(), share) if outgrown else share, outgrown)

    def share(self, threads: int) -> int:
        """Units of the largest share of so many threads."""
        return _ceil(self.cut["units"], threads)

    def slab(self, inputs: int, nbytes: int, share: int) -> int:
        """Units whose inputs are so many bytes; one at least, and at most a thread's share."""
        return max(1, min(share, nbytes * self.cut["units"] // (inputs * self.nbytes)))

    @cached_property
    def in_slabs(self) -> bool:
        """Whether some channels can be summed and written before others."""
        cut = self.cut
        row = cut["channels"] * cut["run"]
        if not cut["write_by_rows"] and cut["write_width"] != row:
            return False
        return bool(cut["reduce_by_rows"] or (cut["width"] == row and cut["few_rows"]))


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _whole_lines(n: int) -> int:
    """``n`` values rounded up to whole cache lines, of any dtype."""
    return _ceil(n, 16) * 16


def _width(samples: int, values: int, itemsize: int) -> int:
    """Columns of a row that is summed: a whole number of samples, of so many values each.

    `NARROW` bytes or twice as many if possible, or else whole vectors.
    """
    for width in (NARROW // itemsize, 2 * NARROW // itemsize):
        if width % values == 0 and width // values <= samples:
            return width
    unit = math.lcm(values, VECTOR_BYTES // itemsize)
    unit = unit if unit <= WIDEN and unit // values <= samples else values
    return unit * max(1, min(WIDEN // unit, samples * values // unit))


def _side_by_side(samples: int, values: int, most: int) -> int:
    """Columns of a row that is written: a whole number of samples."""
    return values * max(1, min(most // values, samples))


def _parts(rows: int, width: int, tiles: int) -> int:
    """Blocks of rows: few, but enough for many threads, and alike for 2, 4 and 8 of them."""
    wanted = min(max(rows * width // TILE_VALUES, MIN_TILES), MAX_TILES)
    parts = _ceil(_ceil(wanted, tiles), 8) * 8 if tiles < 8 else _ceil(wanted, tiles)
    return max(1, min(parts, rows // INTERLEAVED, MAX_SUMS // width))


def _few(n: int, run: int) -> bool:
    """Whether channels have few runs, so that what is done for each channel weighs."""
    return n < INTERLEAVED and run > 1


def _by_rows(n: int, c: int, run: int) -> dict[str, int]:
    """How channels in long runs are cut to be summed."""
    piece = _ceil(run, _ceil(run, BLOCK))
    rows = max(1, BLOCK // piece)
    samples = min(n, max(1, rows // 32, _ceil(n * _ceil(run, piece), MAX_PARTS)))
    samples = min(n, _ceil(samples, INTERLEAVED) * INTERLEAVED)
    pieces = _ceil(run, piece)
    parts = _ceil(n, samples) * pieces
    return {
        "reduce_by_rows": 1,
        "block_samples": samples,
        "piece": piece,
        "pieces": pieces,
        "units": c,
        "unit_channels": 1,
        "parts": parts,
        "blocks": parts * c,
    }


def _by_columns(n: int, c: int, run: int, itemsize: int) -> dict[str, int]:
    """How neighbouring values of different channels are cut to be summed."""
    width = _width(n, c * run, itemsize)
    rows = n * c * run // width
    parts = _parts(rows, width, _ceil(width, COLUMNS))
    height = max(1, _ceil(rows, parts))
    height = min(rows, _ceil(height, INTERLEAVED) * INTERLEAVED)
    parts = max(1, _ceil(rows, height))
    tile = width
    if width == c * run:
        unit = math.lcm(run, VECTOR_BYTES // itemsize)
        tile = min(width, _ceil(UNIT, unit) * unit)
    few = rows <= FEW_ROWS or FEWER_THAN_COLUMNS * rows <= width
    at_once = max(tile, (TILE if few else COLUMNS) // tile * tile)
    weighted = max(tile, min(width, WEIGHTED) // tile * tile)
    return {
        "reduce_by_rows": 0,
        "width": width,
        "few_rows": int(few),
        "tile": tile,
        "tile_room": _whole_lines(min(width, at_once)),
        "weights_columns": weighted,
        "weights_room": _whole_lines(max(INTERLEAVED * weighted, BESIDE) + BEYOND),
        "height": height,
        "pieces": 1,
        "units": _ceil(width, tile),
        "unit_channels": tile // run,
        "parts": parts,
        "blocks": parts * _ceil(width, tile),
    }


def _stores(n: int, c: int, run: int, itemsize: int, stored: int) -> dict[str, int]:
    """How an output is written, of so many bytes a value."""
    total, lanes = n * c * run, VECTOR_BYTES // itemsize
    by_rows = run >= lanes or _few(n, run)
    # Coefficients are widened for each call; but a row holds a vector, if there is one.
    most = min(WRITE_COLUMNS, max(2 * lanes, total // 8))
    width = c if by_rows else _side_by_side(n, c * run, most)
    # Non-temporal stores need it; they are not for less than this, whatever the threads.
    past_caches = min(caches.outgrown(n, 1) for n in (1, 2)) if total < LARGE else 0
    return {
        "write_by_rows": int(by_rows),
        "write_width": width,
        "write_unit": math.lcm(width, lanes),
        "aligned": int(3 * total * stored >= past_caches),
    }


def plan(shape: tuple[int, ...], axis: int, itemsize: int, storage: np.dtype | None = None) -> Plan:
    """Cut a C-contiguous array of this shape, none of whose axes is empty.

    ``itemsize``: of the type that is computed in, on which all sums depend; ``storage``: the type
    of the array, if that is another.
    """
    n, c, run = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    dtype = np.dtype(f"f{itemsize}")
    storage = storage or dtype
    # By rows, (32, 512, 4, 4) is summed in 46 us, by columns in 85; but (50000, 4, 25), whose
    # samples lie near each other, in 1.4 ms instead of 0.5. A vector needs 16 values.
    few = _few(n, run) and n * c * run >= VECTOR_BYTES // itemsize
    long = run >= 128 or few or (run >= 16 and c * run >= SHORT_SAMPLE)
    blocks = _by_rows(n, c, run) if long else _by_columns(n, c, run, itemsize)
    cut = {"samples": n, "channels": c, "run": run, "size": n * c * run}
    cut |= blocks | _stores(n, c, run, itemsize, storage.itemsize)
    return Plan(cut, dtype, storage)
