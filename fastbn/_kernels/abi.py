"""What Python and the kernels agree on: sizes of vectors, records, and the room that a pass has.

A kernel gets an address. There lies a `CONTEXT`, which says where everything else lies: the plan,
the steps, the caller's arrays, and every part of the workspace, each an array of its own.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .._runtime import memory
from .._runtime.jit import data_pointer

_BYTE = np.dtype(np.uint8)
VECTOR_BYTES = 64  # of a cache line, too
# Processors compare the low 12 bits of addresses first (4 KiB aliasing): a load waits for a store
# before it to an address that is equal, or a little less, modulo 4 KiB.
ALIASING_BYTES = 4096
# Of the sum of a run: vectors side by side, and terms of a sum in the data's own precision. Four
# side by side fill the registers of a processor that has 16 of 32 bytes: a run of 196 values takes
# 34 ns, not 15 (AMD EPYC, 2026-11).
UNROLL, CHAIN = 2, 8
# Places of memory that are summed at once: at one, a core waits for memory. One thread sums
# (500000, 16) in 2.9 ms row by row, in 0.95 from 8 places. Of x and dy, more than 4 each would fall
# into one set of the nearest cache: (32, 256, 14, 14) takes 500 us from 8, 200 from 4 (AMD EPYC,
# 2026-11).
INTERLEAVED, INTERLEAVED_BOTH = 8, 4
# Values that are written too many behind weights beside the columns: of 16 samples, or of two runs.
BEYOND = 320
# How far ahead of a sum memory is asked for, where a processor does not guess by itself what comes
# next: at one place of memory, or at rows far from each other. On one thread, sums for gradients of
# (2, 8737, 196) take 830 us without, 500 with; of (100352, 64) 1290 and 1020; outputs and runs at
# once gain nothing (AMD EPYC, 2026-11).
AHEAD_BYTES = 2048


def _fields(*names: str, **others) -> np.dtype:
    """The type of a record: words, and fields of other types."""
    return np.dtype([*((name, np.uintp) for name in names), *others.items()], align=True)


def record(kind: np.dtype, values: Mapping[str, int]) -> np.ndarray:
    """One record of a type; fields that are not named are 0."""
    return np.array([tuple(values.get(name, 0) for name in kind.names or ())], kind)


# How one shape is cut: see `schedule`.
PLAN = _fields(
    *("samples", "channels", "run"),  # (N, C, L) in the order of memory
    "size",  # N * C * L
    "parts",  # partial sums of a channel
    "blocks",  # that are summed, by rows or by columns
    *("reduce_by_rows", "block_samples", "piece", "pieces"),  # a block of `rows.reduce`
    *("units", "unit_channels"),  # into which an array can be cut, channel by channel
    *("width", "tile", "height", "tile_room"),  # a block of `columns.reduce`; columns at once
    "weights_columns",  # columns at once beside which there are weights
    "weights_room",  # for those of `INTERLEAVED` rows, and a vector
    *("write_by_rows", "write_width"),
    "write_unit",  # values of whole rows that are whole vectors
    "aligned",  # stores: to whole lines
)

# What a pass has to do: its steps, each an address or 0 where a pass has none (see `steps`), and
# the options that differ from pass to pass.
STEPS = _fields(
    *("shift", "sum", "merge", "prepare", "write"),
    "slab",  # units that a thread sums and then writes; 0: all are summed before
    "nontemporal",  # stores: past the caches
    "fixed",  # whether the statistics are constants to a backward pass
    "columns",  # at most at once, in `columns.reduce`
)


class Operands(NamedTuple):
    """What a step reads and writes, in the order of memory; None where it does not."""

    x: Any
    dy: Any
    out: Any
    weights: Any  # a value a sample and position, and a vector before and behind
    residual: Any
    dresidual: Any
    slope: Any  # of an activation below 0; False for none, where 0 takes its place
    masked: Any  # True: x counts as 0 where dy is, in sums, for it may be NaN under a weight of 0


class Coefficients(NamedTuple):
    """What a step multiplies with, a value a channel or a column; None where it does not.

    y = (x - center) * scale + offset; dx = (dy + (x - center) * scale + offset) * gain, where
    (x - center) * factor + level is what the forward pass activated. Sums are of x - center, too.
    """

    center: Any
    scale: Any = None
    offset: Any = None
    gain: Any = None
    factor: Any = None
    level: Any = None


# The parts of a workspace, of the type of the sums or of the data.
_SUMS = (
    "partial_sums",  # (2, parts, channels)
    "own_sums",  # (2, channels)
    "needs_float64",  # a mark for each channel that is summed once more
    "given",  # (4, channels): statistics that a caller gives, as `stats` has them
    "tile_sums",  # (threads, 2, tile_room)
    "chosen",  # (threads, tile_room): columns where vectors begin that are summed once more
)
_VALUES = (
    "shift",  # what each channel's values are subtracted from
    *Coefficients._fields,  # a value a channel
    *(f"wide_{name}" for name in Coefficients._fields),  # a value a column of a wide row
    "tile_shift",  # (threads, tile_room)
    *("tile_factor", "tile_level"),  # so, too
    "tile_weights",  # (threads, weights_room): beside several rows
)
# Of these a pass without options has none.
_OPTIONAL = "factor", "level", "wide_factor", "wide_level", "tile_factor", "tile_level"

# A pass: addresses of the records and of the caller's arrays, numbers, and the workspace.
CONTEXT = _fields(
    *("plan", "steps"),
    *("x", "dy", "out", "weight", "bias", "dweight", "dbias"),
    *("weights", "residual", "dresidual"),
    "sums",  # (2, channels), of dy and of dy * (x - mean): a caller's, or `own_sums`
    "places",  # 8 words: values of the first channel that have a weight
    "stats",  # (4, channels): mean, m2 (sum of squared deviations), invstd, the mean's low part
    "threads",  # that the workspace has room for
    "sum_again",  # set by a merge: a channel needs float64
    *_SUMS,
    *_VALUES,
    total=np.float64,  # values of a channel, N * L, or the sum of their weights
    count=np.float64,  # what m2 is divided by: `total`, or that of statistics that are given
    eps=np.float64,
    slope=np.float64,  # of an activation below 0
)

# Passes over parts of arrays that lie one behind the other: how far it is from one to the next, in
# bytes, by the fields of `CONTEXT`.
MOVED = "x", "dy", "out", "residual", "dresidual", "stats", "dweight", "dbias"
PARTS = _fields(
    "contexts",  # the addresses of one for each thread
    "count",
    *MOVED,
)

# What Python has for a workspace, besides its parts.
OVERHEAD = 4096


class Workspace(NamedTuple):
    """Room for a pass on so many threads."""

    threads: int
    context: int  # the address of a `CONTEXT`
    nbytes: int
    fields: np.ndarray  # the `CONTEXT`
    memory: np.ndarray


class Pool:
    """The workspaces of one plan, of which it keeps one for the next call.

    With options, or without: a call that has none is not to pay for them.

    (50, 512) takes 31 us with a new one, 16 with one that is kept (AMD EPYC, 2026-11).
    """

    def __init__(self, plan: np.ndarray, cut: Mapping[str, int], dtype: np.dtype, options=False):
        self._plan, self._dtype, self._total = plan, dtype, cut["samples"] * cut["run"]
        parts, c, tile = cut["parts"], cut["channels"], cut.get("tile_room", 0)
        # Where the output lies on a line, so do the wide coefficients: up to a vector further on,
        # and a row's last vector reaches up to another one further.
        lanes = VECTOR_BYTES // dtype.itemsize
        wide = 0 if cut["write_by_rows"] else cut["write_width"] + 2 * lanes
        self._sizes = {  # values in all, and for each thread
            **dict.fromkeys((*_SUMS, *_VALUES), (c, 0)),
            **{f"wide_{name}": (wide, 0) for name in Coefficients._fields},
            "partial_sums": (2 * parts * c, 0),
            "own_sums": (2 * c, 0),
            "given": (4 * c, 0),
            "tile_sums": (0, 2 * tile),
            "chosen": (0, tile),
            **dict.fromkeys(("tile_shift", "tile_factor", "tile_level"), (0, tile)),
            "tile_weights": (0, cut.get("weights_room", 0)),
        }
        if not options:
            self._sizes |= dict.fromkeys((*_OPTIONAL, "tile_weights"), (0, 0))
        self._keeps = False
        self._spare: list[Workspace] = []

    def _places(self, threads: int) -> tuple[dict[str, slice], int]:
        """Where each part that is needed lies, from a line of the cache on; the bytes of all."""
        places, end = {}, 0
        for name, (size, each) in self._sizes.items():
            nbytes = (size + each * threads) * (8 if name in _SUMS else self._dtype.itemsize)
            if nbytes:
                places[name] = slice(end, end + nbytes)
            end += -(-nbytes // VECTOR_BYTES) * VECTOR_BYTES
        return places, end

    def take(self, threads: int) -> Workspace:
        """Room for a pass."""
        try:
            found = self._spare.pop()
        except IndexError:
            found = None
        if found is not None and found.threads >= threads:
            return found
        places, size = self._places(threads)
        # Begins on a line: others take sums by columns from 74 to 146 us (AMD EPYC, 2026-11).
        room = memory.vector(size + VECTOR_BYTES, _BYTE)
        room = room[-data_pointer(room) % VECTOR_BYTES :][:size]
        parts = {name: data_pointer(room[place]) for name, place in places.items()}
        plan = {"plan": data_pointer(self._plan), "threads": threads, "total": self._total}
        context = record(CONTEXT, plan | parts)
        self._keeps = memory.keep(self, size + OVERHEAD, self._forget)
        return Workspace(threads, data_pointer(context), size, context, room)

    def give(self, workspace: Workspace) -> None:
        """Take back what a pass no longer needs."""
        if not self._spare:
            self._spare.append(workspace)
        if not self._keeps:
            self._spare.clear()

    def _forget(self) -> None:
        """Keep nothing until a workspace is made anew."""
        self._keeps = False
        self._spare.clear()
