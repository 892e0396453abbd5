"""Any array as a flat view in memory order, and back: the only place that copies.

C-contiguous arrays, channels-last ones, and any other order of dense axes are seen as they lie in
memory, (N, C, L). Strided, misaligned, byte-swapped and integer arrays cost one copy.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from .._kernels import schedule
from .._kernels.abi import ALIASING_BYTES
from .._runtime import caches, info, memory
from .._runtime.jit import INTERPRETED
from . import validate


class Layout(NamedTuple):
    """Where an array's values lie: what it takes to see it, or one like it, flat."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]  # of the channels
    channel_shape: tuple[int, ...]  # their lengths
    order: tuple[int, ...] | None  # axes by descending stride; None: C order
    inverse: tuple[int, ...] | None
    lies: tuple[int, ...]  # the shape in the order of memory
    compute: np.dtype
    storage: np.dtype  # of what kernels read and write: `compute`, or 16 bits wide
    dtype: np.dtype  # of the output
    channels: int
    size: int
    n: int  # values per channel
    plan: schedule.Plan | None  # None for an empty array
    converts: bool  # whether the output has another dtype than what kernels write
    words: np.dtype | None  # as which Numba takes what is stored, if it has no such type


_WORD = np.dtype(np.uint16)


@cache
def _stored(compute: np.dtype, dtype: np.dtype) -> np.dtype:
    """The type in which kernels take an array of a dtype: its own, if they can."""
    if dtype == np.float16 and not (INTERPRETED or info.converts_halves(info.machine_here())):
        return compute
    return dtype if dtype.itemsize == _WORD.itemsize else compute


@lru_cache(maxsize=1024)
def _layout(shape, channel_axis, order, dtype: np.dtype, wide: bool = False) -> Layout:
    """The layout of an array; a wide one has it converted to the type that is computed in.

    In its order, several axes of channels follow each other: kernels see them as one.
    """
    axes = validate.axes(channel_axis, shape)
    compute, output = validate.dtypes("x", dtype)
    storage = compute if wide else _stored(compute, output)
    size, channels = math.prod(shape), math.prod(shape[axis] for axis in axes)
    position, moved, inverse = axes[0], shape, None
    if order is not None:
        position, moved = order.index(axes[0]), tuple(shape[i] for i in order)
        inverse = tuple(order.index(i) for i in range(len(shape)))
    seen = (*moved[:position], channels, *moved[position + len(axes) :])
    return Layout(
        shape=shape,
        axes=axes,
        channel_shape=tuple(shape[axis] for axis in axes),
        order=order,
        inverse=inverse,
        lies=moved,
        compute=compute,
        storage=storage,
        dtype=output,
        channels=channels,
        size=size,
        n=math.prod(length for axis, length in enumerate(shape) if axis not in axes),
        plan=schedule.plan(seen, position, compute.itemsize, storage) if size else None,
        converts=storage != output,
        words=None if storage == compute else _WORD,
    )


def forget() -> None:
    """Cut every shape anew."""
    _layout.cache_clear()


@contextmanager
def assume_cache(size: int) -> Iterator[None]:
    """Cut shapes as for a last-level cache of so many bytes meanwhile."""
    with caches.assume(size):
        forget()
        try:
            yield
        finally:
            forget()


@contextmanager
def force_walks(choose) -> Iterator[None]:
    """Take what ``choose`` gives instead of what `Plan.walk` does meanwhile, or that if None."""
    before = schedule.choose
    schedule.choose = choose
    forget()
    try:
        yield
    finally:
        schedule.choose = before
        forget()


class _Borrowed:
    """A read-only array's memory, for kernels that are compiled for writable ones only."""

    def __init__(self, owner: np.ndarray):
        interface = dict(owner.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
        self.owner = owner


@lru_cache(maxsize=1024)
def _descending(strides: tuple[int, ...]) -> tuple[int, ...] | None:
    axes = tuple(range(len(strides)))
    order = tuple(sorted(axes, key=lambda i: -abs(strides[i])))
    return None if order == axes else order


def _order(a: np.ndarray) -> tuple[int, ...] | None:
    """The axes by descending stride; None for C order."""
    return None if a.flags.c_contiguous else _descending(a.strides)


def _see_several(x: np.ndarray, channel_axes, wide: bool) -> tuple[np.ndarray, Layout]:
    """`see` for several axes of channels, which a copy brings side by side if they are not."""
    axes = validate.axes(channel_axes, x.shape)
    order = _order(x) or tuple(range(x.ndim))
    # They come to where the last of them lies: the others keep their order around them.
    last = max(order.index(axis) for axis in axes)
    around = [axis for axis in order[: last + 1] if axis not in axes]
    order = (*around, *axes, *order[last + 1 :])
    in_order = order == tuple(range(x.ndim))
    layout = _layout(x.shape, axes, None if in_order else order, x.dtype, wide)
    return flatten(x, layout), layout


def see(x: np.ndarray, channel_axis, wide: bool = False) -> tuple[np.ndarray, Layout]:
    """``x`` flat in memory order, as kernels take it, and its layout."""
    if type(channel_axis) is not int:
        channel_axis = validate.channel_axis(channel_axis)
        if type(channel_axis) is tuple:
            return _see_several(x, channel_axis, wide)
    if x.flags.carray:
        layout = _layout(x.shape, channel_axis, None, x.dtype, wide)
        if x.dtype is layout.storage:  # the ordinary case
            # A view, in less than half of reshape's time.
            return x.ravel() if layout.words is None else x.ravel().view(_WORD), layout
    order = _order(x)
    layout = _layout(x.shape, channel_axis, order, x.dtype, wide)
    moved = x if order is None else x.transpose(order)
    if order is not None and not moved.flags.c_contiguous:
        x = _copy(moved, layout.storage).transpose(layout.inverse)
        layout = _layout(x.shape, channel_axis, _order(x), x.dtype, wide)._replace(
            dtype=layout.dtype, converts=layout.converts
        )
    return flatten(x, layout), layout


def suits(layout: Layout, *arrays: np.ndarray | None) -> bool:
    """Whether kernels take these beside what they read 16 bits wide."""
    if layout.words is None:
        return True
    return all(a is None or a.dtype.newbyteorder("=") == layout.storage for a in arrays)


def widened(layout: Layout) -> Layout:
    """The layout of an array that is converted to the type that is computed in."""
    return _layout(layout.shape, layout.axes, layout.order, layout.dtype, wide=True)


def part(layout: Layout, shape: tuple[int, ...]) -> Layout:
    """The layout of a part that has another shape, in the same order and types."""
    wide = layout.storage == layout.compute
    return _layout(shape, layout.axes, layout.order, layout.dtype, wide)


def _words(flat: np.ndarray, layout: Layout) -> np.ndarray:
    """A flat array as Numba takes it."""
    return flat if layout.words is None else flat.view(_WORD)


def _view(a: np.ndarray, layout: Layout) -> np.ndarray | None:
    """The array's own memory, flat in the layout's order; None where it lies otherwise."""
    if layout.order is not None:
        a = a.transpose(layout.order)
    if a.dtype is not layout.storage and a.dtype != layout.storage:
        return None
    if a.flags.carray:
        return a.ravel() if layout.words is None else a.ravel().view(_WORD)
    if a.flags.c_contiguous and a.flags.aligned:
        return np.asarray(_Borrowed(_words(a, layout))).reshape(-1)
    return None


def _copy(a: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A C-contiguous copy."""
    if a.size < memory.SMALL:
        return np.array(a, dtype, order="C")
    copy = memory.empty(a.shape, dtype)
    np.copyto(copy, a, "unsafe")
    return copy


def flatten(a: np.ndarray, layout: Layout) -> np.ndarray:
    """An array of the layout's shape, flat in its order; a copy where it lies otherwise."""
    flat = _view(a, layout)
    if flat is None:
        moved = a if layout.order is None else a.transpose(layout.order)
        flat = _words(_copy(moved, layout.storage).ravel(), layout)
    return flat


def target(
    layout: Layout, out: np.ndarray | None, x: np.ndarray, dy: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Where a kernel writes what it computes from flat x: flat, and in the layout's shape.

    `finish` gives what callers get.
    """
    view = None if out is None else _view(out, layout)
    if out is not None and view is not None:
        return view, out
    if layout.size < memory.SMALL:
        result = np.empty(layout.lies, layout.storage)
    else:
        result = memory.empty(layout.lies, layout.storage, _same_place(x, dy))
    flat = _words(result.ravel(), layout)
    return flat, result if layout.order is None else result.transpose(layout.inverse)


def _same_place(x: np.ndarray, dy: np.ndarray | None) -> int:
    """The address that a new output equals modulo 4 KiB, and so within a line of the cache.

    A little ahead of an input, stores and the loads that follow are mistaken for each other (4 KiB
    aliasing), and a write takes up to 1.2 times as long (AMD EPYC, 2026-11): of two inputs, the one
    that lies behind.
    """
    place = memory.address(x)
    if dy is None:
        return place
    other = memory.address(dy)
    return other if (place - other) % ALIASING_BYTES < ALIASING_BYTES // 2 else place


def empty_like(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A new array of x's shape, in the order of its memory."""
    order = _order(x) or tuple(range(x.ndim))
    lies = tuple(x.shape[axis] for axis in order)
    made = np.empty(lies, dtype) if x.size < memory.SMALL else memory.empty(lies, dtype)
    return made.transpose([order.index(axis) for axis in range(x.ndim)])


def finish(layout: Layout, result: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """A result in the output's dtype, in ``out`` if there is one."""
    if result is not out and (out is not None or layout.converts):
        with np.errstate(over="ignore"):  # float16 has infinity for what is beyond it
            if out is None:
                moved = result if layout.order is None else result.transpose(layout.order)
                copy = _copy(moved, layout.dtype)
                return copy if layout.order is None else copy.transpose(layout.inverse)
            out[...] = result
            return out
    return result
