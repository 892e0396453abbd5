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

from .._runtime.jit import Step, array_at, compiling, inner, record_at
from . import channels, columns, rows
from .abi import CONTEXT, PLAN, Coefficients, Operands
from .simd import TWO, lanes_of


class Stage(Enum):
    """What a step does, in the order of a pass."""

    SHIFT, SUM, MERGE, PREPARE, WRITE = range(5)


class Walk(Enum):
    """How a step goes through memory."""

    CHANNELS, ROWS, COLUMNS = range(3)


class Storage(Enum):
    """How values lie in memory: 16-bit numbers are integers to Numba, a kind for each."""

    FLOAT32, FLOAT64, FLOAT16, BFLOAT16 = np.float32, np.float64, np.uint16, np.int16

    @property
    def real(self) -> type:
        """The type that is computed in."""
        return np.float64 if self is Storage.FLOAT64 else np.float32

    @property
    def computed(self) -> "Storage":
        """The storage of that type."""
        return Storage(self.real)


class Reads(Enum):
    """What a step reads: x in a forward pass, else dy or both.

    Of steps over channels it tells the pass: X a forward, X_AND_DY a backward one. One that has
    need of dy alone reads x, too, for the sign of what was activated.
    """

    X, DY, X_AND_DY = range(3)


class Activation(Enum):
    """What is applied to the output."""

    NONE, RELU, LEAKY_RELU = range(3)


class Key(NamedTuple):
    """The name of a step."""

    stage: Stage
    walk: Walk
    storage: Storage
    reads: Reads
    weighted: bool = False
    residual: bool = False
    activation: Activation = Activation.NONE

    def __repr__(self) -> str:
        """Its symbol, and its name in the cache."""
        names = [part.name for part in self[:4]]
        names += ["weighted"] * self.weighted + ["residual"] * self.residual
        names += [self.activation.name] * (self.activation is not Activation.NONE)
        return "_".join(names).lower()


_FAMILIES: dict[Walk, Any] = {Walk.ROWS: rows, Walk.COLUMNS: columns}


@cache
def _made(key: Key) -> Step:
    return Step(repr(key), _MAKERS[key.stage](key))


def address(key: Key) -> int:
    """Where the compiled step lies."""
    with compiling():  # two threads would give two steps one symbol
        return _made(key).address


def keys() -> Iterator[Key]:
    """Every step there is without options."""
    for storage in Storage:
        for reads in (Reads.X, Reads.X_AND_DY):
            if storage is storage.computed:
                yield Key(Stage.MERGE, Walk.CHANNELS, storage, reads)
            if storage is storage.computed or reads is Reads.X:
                yield Key(Stage.SHIFT, Walk.CHANNELS, storage, reads)
            yield Key(Stage.PREPARE, Walk.CHANNELS, storage, reads)
        for walk in (Walk.ROWS, Walk.COLUMNS):
            for reads in (Reads.X, Reads.X_AND_DY):
                yield Key(Stage.SUM, walk, storage, reads)
            for reads in Reads:
                yield Key(Stage.WRITE, walk, storage, reads)


def _shift(key: Key) -> Callable:
    real, store, forward = key.storage.real, key.storage.value, key.reads is Reads.X
    weighted, activated = key.weighted, key.activation is not Activation.NONE

    def shift(t, exact, first, last, address):
        context = record_at(address, CONTEXT)
        plan = record_at(context.plan, PLAN)
        if forward:
            x = array_at(context.x, plan.size, store)
            operands = Operands(x, None, None, None, None, None, None)
            if weighted:
                channels.shift_among_weighted(context, plan, real, operands, first, last)
            else:
                channels.shift_near(context, plan, real, operands, first, last)
        else:
            channels.shift_to_mean(context, plan, real, first, last)
            if activated:
                scale, offset = context.factor, context.level
                channels.forward_coefficients(context, plan, real, scale, offset, first, last)
        return 0

    return shift


@inner
def _weights(context, plan, real, lanes):
    """The weights, with a vector before and one behind."""
    return array_at(context.weights, plan.samples * plan.run + TWO * lanes, real)


def _sum(key: Key) -> Callable:
    real, store, reduce = key.storage.real, key.storage.value, _FAMILIES[key.walk].reduce
    reads_dy, weighted, residual = key.reads is Reads.X_AND_DY, key.weighted, key.residual
    activated, leaky = _activated(key)

    def sum_blocks(t, exact, first, last, address):
        context = record_at(address, CONTEXT)
        plan = record_at(context.plan, PLAN)
        c, x = plan.channels, array_at(context.x, plan.size, store)
        lanes = lanes_of(x)
        operands = Operands(
            x,
            array_at(context.dy, plan.size, store) if reads_dy else None,
            None,
            _weights(context, plan, real, lanes) if weighted else None,
            array_at(context.residual, plan.size, store) if residual else None,
            None,
            (real(context.slope) if leaky else False) if activated else None,
        )
        coefficients = Coefficients(
            array_at(context.shift, c, real),
            None,
            None,
            None,
            array_at(context.factor, c, real) if activated else None,
            array_at(context.level, c, real) if activated else None,
        )
        room = plan.tile_room * context.threads
        tiles = Coefficients(
            array_at(context.tile_shift, room, real),
            None,
            None,
            None,
            array_at(context.tile_factor, room, real) if activated else None,
            array_at(context.tile_level, room, real) if activated else None,
        )
        reduce(context, plan, real, t, exact, operands, coefficients, tiles, first, last)
        return 0

    return sum_blocks


def _merge(key: Key) -> Callable:
    real, forward = key.storage.real, key.reads is Reads.X

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
    real, store, forward = key.storage.real, key.storage.value, key.reads is Reads.X
    activated = key.activation is not Activation.NONE

    def prepare(t, exact, first, last, address):
        context = record_at(address, CONTEXT)
        plan = record_at(context.plan, PLAN)
        out = array_at(context.out, plan.size, store)
        if forward:
            channels.invert_deviations(context, plan, first, last)
            scale, offset = context.scale, context.offset
            channels.forward_coefficients(context, plan, real, scale, offset, first, last)
            channels.widen(context, plan, real, out, False, False, first, last)
        else:
            channels.backward_coefficients(context, plan, real, first, last)
            channels.widen(context, plan, real, out, True, activated, first, last)
        return 0

    return prepare


def _write(key: Key) -> Callable:
    real, store, family = key.storage.real, key.storage.value, _FAMILIES[key.walk]
    values, write = family.values, family.write
    activated, leaky = _activated(key)
    corrects, reads_dy = key.reads is not Reads.DY, key.reads is not Reads.X
    reads_x, before = corrects or activated, activated and reads_dy
    weighted, residual = key.weighted, key.residual
    reads_residual, writes_dresidual = (
        residual and (activated or not reads_dy),
        residual and reads_dy,
    )

    def write_values(t, times, first, last, address):
        context = record_at(address, CONTEXT)
        plan = record_at(context.plan, PLAN)
        out = array_at(context.out, plan.size, store)
        operands = Operands(
            array_at(context.x, plan.size, store) if reads_x else None,
            array_at(context.dy, plan.size, store) if reads_dy else None,
            out,
            _weights(context, plan, real, lanes_of(out)) if weighted else None,
            array_at(context.residual, plan.size, store) if reads_residual else None,
            array_at(context.dresidual, plan.size, store) if writes_dresidual else None,
            (real(context.slope) if leaky else False) if activated else None,
        )
        coefficients = Coefficients(
            values(context.center, context.wide_center, plan, real, out) if reads_x else None,
            values(context.scale, context.wide_scale, plan, real, out) if corrects else None,
            values(context.offset, context.wide_offset, plan, real, out) if corrects else None,
            values(context.gain, context.wide_gain, plan, real, out) if reads_dy else None,
            values(context.factor, context.wide_factor, plan, real, out) if before else None,
            values(context.level, context.wide_level, plan, real, out) if before else None,
        )
        write(context, plan, real, t, operands, coefficients, times, first, last)
        return 0

    return write_values


def _activated(key: Key) -> tuple[bool, bool]:
    """Whether there is an activation, and one with a slope."""
    return key.activation is not Activation.NONE, key.activation is Activation.LEAKY_RELU


_MAKERS = {
    Stage.SHIFT: _shift,
    Stage.SUM: _sum,
    Stage.MERGE: _merge,
    Stage.PREPARE: _prepare,
    Stage.WRITE: _write,
}
