"""Any array as a flat view in memory order, and back: the only place that copies.

C-contiguous arrays, channels-last ones, and any other order of dense axes are seen as they lie in
memory, (N, C, L). Strided, misaligned, byte-swapped and integer arrays cost one copy.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .._kernels import schedule
from .._kernels.abi import ALIASING_BYTES
from .._runtime import caches, errors, memory
from . import validate


class Layout(NamedTuple):
    """Where an array's values lie: what it takes to see it, or one like it, flat."""

    shape: tuple[int, ...]
    axis: int
    order: tuple[int, ...] | None  # axes by descending stride; None: C order
    inverse: tuple[int, ...] | None
    lies: tuple[int, ...]  # the shape in the order of memory
    compute: np.dtype
    dtype: np.dtype  # of the output
    channels: int
    size: int
    n: int  # values per channel
    plan: schedule.Plan | None  # None for an empty array
    converts: bool  # whether the output has another dtype than the arithmetic


@lru_cache(maxsize=1024)
def _layout(shape, channel_axis: int, order, dtype: np.dtype) -> Layout:
    axis = validate.axis(channel_axis, shape)
    compute, output = validate.dtypes("x", dtype)
    size = math.prod(shape)
    position, moved, inverse = axis, shape, None
    if order is not None:
        position, moved = order.index(axis), tuple(shape[i] for i in order)
        inverse = tuple(order.index(i) for i in range(len(shape)))
    plan = schedule.plan(moved, position, compute.itemsize) if size else None
    n = math.prod(shape[:axis] + shape[axis + 1 :])
    converts = compute != output
    channels = shape[axis]
    return Layout(
        shape, axis, order, inverse, moved, compute, output, channels, size, n, plan, converts
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


def see(x: np.ndarray, channel_axis: int) -> tuple[np.ndarray, Layout]:
    """``x`` flat in memory order, in the dtype to compute in, and its layout."""
    if type(channel_axis) is not int:
        channel_axis = errors.integer("channel_axis", channel_axis)
    if x.flags.carray:
        layout = _layout(x.shape, channel_axis, None, x.dtype)
        if x.dtype is layout.compute:  # the ordinary case
            return x.ravel(), layout  # a view, in less than half of reshape's time
    order = _order(x)
    layout = _layout(x.shape, channel_axis, order, x.dtype)
    moved = x if order is None else x.transpose(order)
    if moved.flags.carray and x.dtype is layout.compute:
        return moved.ravel(), layout
    if order is not None and not moved.flags.c_contiguous:
        x = _copy(moved, layout.compute).transpose(layout.inverse)
        layout = _layout(x.shape, channel_axis, _order(x), x.dtype)._replace(
            dtype=layout.dtype, converts=layout.converts
        )
    return flatten(x, layout), layout


def _view(a: np.ndarray, layout: Layout) -> np.ndarray | None:
    """The array's own memory, flat in the layout's order; None where it lies otherwise."""
    if layout.order is not None:
        a = a.transpose(layout.order)
    if a.flags.carray and a.dtype == layout.compute:
        return a.ravel()
    if a.flags.c_contiguous and a.flags.aligned and a.dtype == layout.compute:
        return np.asarray(_Borrowed(a)).reshape(-1)
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
        flat = _copy(moved, layout.compute).ravel()
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
        result = np.empty(layout.lies, layout.compute)
    else:
        result = memory.empty(layout.lies, layout.compute, _same_place(x, dy))
    return result.ravel(), result if layout.order is None else result.transpose(layout.inverse)


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
