"""The steps of a pass: C functions, for a range of channels, blocks or values each.

- *shift*: for channels, before they are summed.
- *sum*: leave the partial sums of some blocks.
- *merge*: of channels; says whether some have to be summed once more, in float64.
- *prepare*: the coefficients of channels, before they are written.
- *write*: some values of the output.

All are called as ``step(t, how, first, last, context)``, where t is the number of the thread. To a
sum and a merge, ``how`` says whether channels that are marked are summed once more, exactly; to a
write, in how many samples the range lies, one after the other. A step is found by its key, and
compiled when its address is first asked for.
"""

from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .._runtime.jit import Step, array_at, compiling, record_at
from . import channels, columns, rows
from .abi import CONTEXT, PLAN


class Stage(Enum):
    """What a step does, in the order of a pass."""

    SHIFT, SUM, MERGE, PREPARE, WRITE = range(5)


class Walk(Enum):
    """How a step goes through memory."""

    CHANNELS, ROWS, COLUMNS = range(3)


class Storage(Enum):
    """How values lie in memory."""

    FLOAT32, FLOAT64 = np.float32, np.float64


class Reads(Enum):
    """What a step reads: x in a forward pass, else dy or both.

    Of steps over channels it tells the pass: X a forward, X_AND_DY a backward one.
    """

    X, DY, X_AND_DY = range(3)


class Key(NamedTuple):
    """The name of a step."""

    stage: Stage
    walk: Walk
    storage: Storage
    reads: Reads

    def __repr__(self) -> str:
        """Its symbol, and its name in the cache."""
        return "_".join(part.name.lower() for part in self)


_FAMILIES: dict[Walk, Any] = {Walk.ROWS: rows, Walk.COLUMNS: columns}


@cache
def _made(key: Key) -> Step:
    return Step(repr(key), _MAKERS[key.stage](key))


def address(key: Key) -> int:
    """Where the compiled step lies."""
    with compiling():  # two threads would give two steps one symbol
        return _made(key).address


def keys() -> Iterator[Key]:
    """Every step there is."""
    for storage in Storage:
        for reads in (Reads.X, Reads.X_AND_DY):
            for stage in (Stage.SHIFT, Stage.MERGE, Stage.PREPARE):
                yield Key(stage, Walk.CHANNELS, storage, reads)
        for walk in (Walk.ROWS, Walk.COLUMNS):
            for reads in (Reads.X, Reads.X_AND_DY):
                yield Key(Stage.SUM, walk, storage, reads)
            for reads in Reads:
                yield Key(Stage.WRITE, walk, storage, reads)


def _shift(key: Key) -> Callable:
    real, forward = key.storage.value, key.reads is Reads.X

    def shift(t, exact, first, last, address):
        context = record_at(address, CONTEXT)
        plan = record_at(context.plan, PLAN)
        if forward:
            x = array_at(context.x, plan.size, real)
            channels.shift_near(context, plan, real, x, first, last)
        else:
            channels.shift_to_mean(context, plan, real, first, last)
        return 0

    return shift


def _sum(key: Key) -> Callable:
    real, reduce = key.storage.value, _FAMILIES[key.walk].reduce
    reads_dy = key.reads is Reads.X_AND_DY

    def sum_blocks(t, exact, first, last, address):
        context = record_at(address, CONTEXT)
        plan = record_at(context.plan, PLAN)
        x = array_at(context.x, plan.size, real)
        dy = array_at(context.dy, plan.size, real) if reads_dy else None
        reduce(context, plan, real, t, exact, x, dy, first, last)
        return 0

    return sum_blocks


def _merge(key: Key) -> Callable:
    real, forward = key.storage.value, key.reads is Reads.X

    def merge(t, exact, first, last, address):
        context = record_at(address, CONTEXT)
        plan = record_at(context.plan, PLAN)
        if forward:
            if not channels.merge_moments(context, plan, real, exact, first, last):
                return 0
            channels.shift_to_mean(context, plan, real, first, last)
            return 1
        return 1 if channels.merge_gradients(context, plan, real, exact, first, last) else 0

    return merge


def _prepare(key: Key) -> Callable:
    real, forward = key.storage.value, key.reads is Reads.X

    def prepare(t, exact, first, last, address):
        context = record_at(address, CONTEXT)
        plan = record_at(context.plan, PLAN)
        out = array_at(context.out, plan.size, real)
        if forward:
            channels.invert_deviations(context, plan, first, last)
            channels.forward_coefficients(context, plan, real, first, last)
            channels.widen(context, plan, real, out, False, first, last)
        else:
            channels.backward_coefficients(context, plan, real, first, last)
            channels.widen(context, plan, real, out, True, first, last)
        return 0

    return prepare


def _write(key: Key) -> Callable:
    real, write = key.storage.value, _FAMILIES[key.walk].write
    reads_x, reads_dy = key.reads is not Reads.DY, key.reads is not Reads.X

    def write_values(t, times, first, last, address):
        context = record_at(address, CONTEXT)
        plan = record_at(context.plan, PLAN)
        x = array_at(context.x, plan.size, real) if reads_x else None
        dy = array_at(context.dy, plan.size, real) if reads_dy else None
        out = array_at(context.out, plan.size, real)
        write(context, plan, real, x, dy, out, times, first, last)
        return 0

    return write_values


_MAKERS = {
    Stage.SHIFT: _shift,
    Stage.SUM: _sum,
    Stage.MERGE: _merge,
    Stage.PREPARE: _prepare,
    Stage.WRITE: _write,
}
