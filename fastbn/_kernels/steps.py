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

from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .._runtime.jit import Field, Step, array_at, compiling, gather, record_at
from . import channels, columns, rows
from .abi import CONTEXT, PLAN, VECTOR_BYTES, Coefficients, Operands
from .simd import ZERO


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
    mask: bool = False  # whether weights are bytes, 0 or 1
    residual: bool = False
    activation: Activation = Activation.NONE

    def __repr__(self) -> str:
        """Its symbol, and its name in the cache."""
        names = [part.name for part in self[:4]]
        names += ["weighted"] * self.weighted + ["mask"] * self.mask + ["residual"] * self.residual
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
    real, forward, weighted = key.storage.real, key.reads is Reads.X, key.weighted
    activated, operands_at = key.activation is not Activation.NONE, _operands(key, "x")

    def shift(t, exact, first, last, address):
        context = record_at(address, CONTEXT)
        plan = record_at(context.plan, PLAN)
        if forward:
            operands = operands_at(address, plan.size, ZERO)
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


def _operands(key: Key, *names: str) -> Callable:
    """A function of the context's address, its values and its weights: what a step reads."""
    store, real = key.storage.value, key.storage.real
    fields: dict = {name: Field(name, store, 0) for name in names}
    if key.weighted and key.stage is Stage.SUM and key.reads is not Reads.X:
        fields["masked"] = True
    elif key.weighted:
        fields["weights"] = Field("weights", np.uint8 if key.mask else real, 1)
    if key.activation is not Activation.NONE:
        leaky = key.activation is Activation.LEAKY_RELU
        fields["slope"] = Field("slope", real, None) if leaky else False
    return gather(CONTEXT, Operands, **fields)


def _coefficients(key: Key, names: Iterable[str], **places: str) -> Callable:
    """A function of the context's address: what a step multiplies with, so many values each."""
    real = key.storage.real
    fields = {name: Field(places.get(name, name), real, 0) for name in names}
    return gather(CONTEXT, Coefficients, **fields)


def _beside(key: Key) -> np.uintp:
    """Weights before those of the first sample, and behind those of the last: two vectors."""
    return np.uintp(2 * VECTOR_BYTES // np.dtype(key.storage.real).itemsize)


def _sum(key: Key) -> Callable:
    real, reduce, beside = key.storage.real, _FAMILIES[key.walk].reduce, _beside(key)
    names = ["x", *["dy"] * (key.reads is Reads.X_AND_DY), *["residual"] * key.residual]
    used = ["center", *["factor", "level"] * (key.activation is not Activation.NONE)]
    tile = {"center": "tile_shift", "factor": "tile_factor", "level": "tile_level"}
    operands_at = _operands(key, *names)
    coefficients_at = _coefficients(key, used, center="shift")
    tiles_at = _coefficients(key, used if key.walk is Walk.COLUMNS else [], **tile)

    def sum_blocks(t, exact, first, last, address):
        context = record_at(address, CONTEXT)
        plan = record_at(context.plan, PLAN)
        operands = operands_at(address, plan.size, plan.samples * plan.run + beside)
        coefficients = coefficients_at(address, plan.channels, ZERO)
        tiles = tiles_at(address, plan.tile_room * context.threads, ZERO)
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
    activated, bfloat = key.activation is not Activation.NONE, key.storage is Storage.BFLOAT16

    def prepare(t, exact, first, last, address):
        context = record_at(address, CONTEXT)
        plan = record_at(context.plan, PLAN)
        out = array_at(context.out, plan.size, store)
        if forward:
            channels.invert_deviations(context, plan, first, last)
            scale, offset = context.scale, context.offset
            channels.forward_coefficients(context, plan, real, scale, offset, first, last)
            if bfloat:
                channels.plain(context, plan, real, first, last)
            channels.widen(context, plan, real, out, False, False, first, last)
        else:
            channels.backward_coefficients(context, plan, real, first, last)
            if bfloat:
                channels.plain(context, plan, real, first, last)
            channels.widen(context, plan, real, out, True, activated, first, last)
        return 0

    return prepare


def _write(key: Key) -> Callable:
    real, family, beside = key.storage.real, _FAMILIES[key.walk], _beside(key)
    write = family.write_weighted if key.weighted else family.write
    by_columns, backward = key.walk is Walk.COLUMNS, key.reads is not Reads.X
    activated, corrects = key.activation is not Activation.NONE, key.reads is not Reads.DY
    names = {
        "x": corrects or activated,
        "dy": backward,
        "out": True,
        "residual": key.residual and (activated or not backward),
        "dresidual": key.residual and backward,
    }
    used = {
        "center": corrects or activated,
        **dict.fromkeys(("scale", "offset"), corrects),
        "gain": backward,
        **dict.fromkeys(("factor", "level"), backward and activated),
    }
    wide = {name: f"wide_{name}" for name in used if by_columns}
    operands_at = _operands(key, *(name for name, needed in names.items() if needed))
    coefficients_at = _coefficients(key, (name for name in used if used[name]), **wide)

    def write_values(t, times, first, last, address):
        context = record_at(address, CONTEXT)
        plan = record_at(context.plan, PLAN)
        operands = operands_at(address, plan.size, plan.samples * plan.run + beside)
        size = plan.write_width + beside if by_columns else plan.channels
        coefficients = coefficients_at(address, size, ZERO)
        write(context, plan, real, t, operands, coefficients, times, first, last)
        return 0

    return write_values


_MAKERS = {
    Stage.SHIFT: _shift,
    Stage.SUM: _sum,
    Stage.MERGE: _merge,
    Stage.PREPARE: _prepare,
    Stage.WRITE: _write,
}
