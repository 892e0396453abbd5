"""Batch norm of one Dask array, forward and backward."""

from typing import Any

import dask.array as da
import numpy as np
from dask.delayed import Delayed, delayed

import fastbn

from .._records import STATS
from . import _arguments as arguments
from . import _tasks as tasks
from ._again import again
from ._arguments import Input

SPLIT = 16  # chunks, or results of chunks, that one task merges
_STATS, _SUMS = "fastbn-statistics", "fastbn-sums"
_RESULTS = f"{_STATS}-aggregate", f"{_SUMS}-aggregate"  # Dask's names of what reductions give


def batch_stats(x, channel_axis=1, weights=None) -> Delayed:
    """Count, mean and sum of squared deviations of each channel, when Dask computes them.

    Parameters
    ----------
    x : dask.array.Array, xarray.DataArray or ndarray
        At least 2-D, real, in chunks along any axes. All sums are in float64.
    channel_axis : int or tuple of int, default 1
        Statistics run over all other axes. Of several axes, each combination is a channel. Of a
        DataArray, also the names of dimensions.
    weights : dask.array.Array, xarray.DataArray or ndarray, optional
        How much each sample and position counts, at least 0: of x's shape without the axis of the
        channels, or with 1 in its place; axes of length 1 are repeated. Where a weight is 0, `x`
        may be NaN.

    Returns
    -------
    Delayed
        Computes to `fastbn.Stats`: empty ones of an empty array.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or shape (``AxisError`` if `channel_axis` is out of
        range), before any work. Negative weights are found when Dask computes.

    Notes
    -----
    Statistics of chunks merge in a tree of fixed order (Chan, Golub & LeVeque 1983), so that equal
    chunks give equal bits with any scheduler and number of workers.

    `x` is read by keys of its own, see `batch_norm`.

    Examples
    --------
    >>> import dask.array as da
    >>> from fastbn.adapters.dask import batch_stats
    >>> x = da.arange(12.0, chunks=5).reshape(6, 2)
    >>> batch_stats(x).compute().mean
    array([5., 6.])
    """
    seen = arguments.see(x, channel_axis)
    return of_input(seen, arguments.weights(weights, seen))


def of_input(x: Input, weights: da.Array | None = None) -> Delayed:
    """`batch_stats` of arguments that are checked."""
    return delayed(tasks.ordered, pure=True)(statistics(x, weights), x.order)


def statistics(x: Input, weights: da.Array | None = None) -> da.Array:
    """Statistics as records: by chunk, and then merged in a tree that chunks alone decide on."""
    seed = f"{_STATS}-{x.array.name}"
    operands = [again(x.array, seed, _RESULTS), tuple(range(x.array.ndim))]
    if weights is not None:
        rest = tuple(axis for axis in range(x.array.ndim) if axis not in x.axes)
        operands += [again(weights, seed, _RESULTS), rest]
    return _reduced(x, tasks.chunk_stats, tasks.merge_stats, STATS, _STATS, operands, {})


def _reduced(x: Input, chunk, merge, dtype, name, operands, options) -> da.Array:
    """One record a channel, of all chunks that have values of that channel."""
    every = tuple(range(x.array.ndim))
    rest = tuple(axis for axis in every if axis not in x.axes)
    parts = da.blockwise(
        chunk,
        every,
        *operands,
        adjust_chunks=dict.fromkeys(rest, _one),
        align_arrays=False,
        token=f"{name}-chunk",
        meta=np.empty((0,) * len(every), dtype),
        dtype=dtype,
        axes=x.sorted,
        **options,
    )
    several = sum(parts.numblocks[axis] > 1 for axis in rest)
    return da.reduction(
        parts,
        tasks.same,
        merge,
        axis=rest,
        dtype=dtype,
        split_every=dict.fromkeys(rest, max(2, round(SPLIT ** (1 / max(1, several))))),
        name=name,
        concatenate=False,
        meta=np.empty((0,) * len(x.axes), dtype),
    )


def _one(length: int) -> int:
    """The length of what is left of an axis of a chunk."""
    return 1


def _operand(stats, x: Input) -> da.Array:
    """Statistics as records in chunks that fit x's: of the batch, unless they are given."""
    if stats is None:
        x.check_many()
        return statistics(x)
    shape = x.channel_shape
    if isinstance(stats, fastbn.Stats):
        records = tasks.pack_ordered(stats, shape, x.inverse)
        return da.from_array(records, chunks=x.chunks)
    if isinstance(stats, tuple):
        return da.map_blocks(
            tasks.pack_pair,
            *(arguments.per_channel(value, 0.0, x) for value in stats),
            dtype=STATS,
            meta=np.empty((0,) * len(shape), STATS),
        )
    records = delayed(tasks.pack_ordered, pure=True)(stats, shape, x.inverse)
    lengths = tuple(map(sum, x.chunks))
    return da.from_delayed(records, lengths, STATS).rechunk(x.chunks)


def _checked(stats, x: Input):
    """Statistics that are given, in what fastbn can be asked about."""
    if isinstance(stats, tuple) and len(stats) == 2:
        names = "stats mean", "stats var"
        pair = tuple(map(arguments.vector, names, stats))
        return pair, tuple(map(arguments.stand_in, pair))
    if stats is None or isinstance(stats, Delayed):
        return stats, fastbn.Stats.empty(x.channels)
    return stats, stats


def batch_norm(x, weight=None, bias=None, *, eps: float = 1e-5, channel_axis=1, stats=None) -> Any:
    """Normalise each channel of a Dask array.

    Parameters
    ----------
    x : dask.array.Array, xarray.DataArray or ndarray
        At least 2-D, in chunks along any axes; see `fastbn.batch_norm` for dtypes.
    weight, bias : array_like or dask.array.Array, shape (C,), optional
        Scale and shift of each channel; without them 1 and 0.
    eps : float, default 1e-5
        Added to the variance.
    channel_axis : int or tuple of int, default 1
        Statistics run over all other axes. Of several axes, each combination is a channel: what has
        a value a channel then has the shape of these axes, in their order, or is flat. Of a
        DataArray, also the names of dimensions.
    stats : Stats, Delayed or (mean, var), optional
        Statistics to normalise with; a Delayed is one of `batch_stats` or `population_stats`.
        Without them, those of `x`.

    Returns
    -------
    dask.array.Array or xarray.DataArray
        ``(x - mean) / sqrt(var + eps) * weight + bias``, with x's shape, chunks and dtype (float64
        for integers). A DataArray has x's dimensions, coordinates, name and attributes.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape or range, or a channel has a single value and
        there are no `stats`; before any work.

    Notes
    -----
    Ioffe & Szegedy (2015), algorithm 1.

    Statistics are complete when all chunks have been read. With one key for each chunk, Dask would
    hold the whole array until then. So statistics read `x` by keys of their own, and Dask computes
    `x` twice and holds a few chunks. Each time `x` has to be the same. Where `x` is dear and there
    is room, ``x.persist()`` computes `x` once: what lies in memory is not computed again.

    A task has one thread: Dask owns the parallelism. A number that `fastbn.set_num_threads` sets
    goes first, in the process that it is called in.

    Examples
    --------
    >>> import dask.array as da
    >>> from fastbn.adapters.dask import batch_norm
    >>> x = da.random.default_rng(0).normal(3, 2, size=(1000, 4), chunks=(100, 4))
    >>> y = batch_norm(x)
    >>> y.dtype, y.chunks == x.chunks, abs(y.mean().compute()) < 1e-15
    (dtype('float64'), True, np.True_)
    """
    seen = arguments.see(x, channel_axis)
    weight, bias = arguments.vector("weight", weight), arguments.vector("bias", bias)
    stats, known = _checked(stats, seen)
    empty = arguments.asked(fastbn.normalize, seen, known, weight, bias, eps=eps)
    every, axes = tuple(range(seen.array.ndim)), seen.sorted
    records, source = _operand(stats, seen), seen.array
    if not isinstance(stats, fastbn.Stats | tuple):  # they may be those of x, yet to be computed
        source = again(source, f"fastbn-normalize-{source.name}", _RESULTS, records)
    y = da.blockwise(
        tasks.normalize,
        every,
        *(source, every, records, axes),
        *(arguments.per_channel(weight, 1.0, seen), axes),
        *(arguments.per_channel(bias, 0.0, seen), axes),
        align_arrays=False,
        token="fastbn-normalize",
        meta=np.empty((0,) * len(every), empty.dtype),
        dtype=empty.dtype,
        axes=axes,
        eps=eps,
    )
    return seen.wrapped(y)


def batch_norm_backward(
    dy, x, weight=None, *, eps: float = 1e-5, channel_axis=1, stats=None
) -> tuple[Any, da.Array, da.Array]:
    """Gradients of `batch_norm` with respect to x, weight and bias.

    Parameters
    ----------
    dy : dask.array.Array, xarray.DataArray or ndarray
        Gradient with respect to the output: of x's shape, floating point, in any chunks.
    x, weight, eps, channel_axis
        As in `batch_norm`.
    stats : Stats or Delayed, optional
        Those of `x`, if they were computed before; they save a pass. The gradient goes through
        them. Statistics of weighted data give another gradient.

    Returns
    -------
    dx : dask.array.Array or xarray.DataArray
        Of x's shape, chunks and dtype (float64 for integers).
    dweight, dbias : dask.array.Array, shape (C,)
        float32 for 16-bit and float32 data, else float64. Of several channel axes, of their shape.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape or range, before any work. If `stats` are
        (mean, var): of fixed statistics, dx is ``batch_norm(dy, weight, stats=(0 * mean, var))``.

    Notes
    -----
    Ioffe & Szegedy (2015), section 3, in two phases: sums over all chunks, then dx of each.

    Statistics, sums and dx read `x` by keys of their own, and the latter two so read `dy`: Dask
    computes `x` three times and `dy` twice, and holds a few chunks; see `batch_norm`.

    Examples
    --------
    >>> import dask.array as da
    >>> from fastbn.adapters.dask import batch_norm, batch_norm_backward
    >>> x = da.random.default_rng(0).normal(3, 2, size=(1000, 4), chunks=(100, 4))
    >>> dx, dweight, dbias = batch_norm_backward(batch_norm(x), x)  # of sum(y ** 2) / 2
    >>> dweight.compute().round(2), abs(dx).max().compute() < 1e-4
    (array([1000., 1000., 1000., 1000.]), np.True_)
    """
    seen = arguments.see(x, channel_axis)
    gradient = arguments.gradient(dy, seen)
    weight = arguments.vector("weight", weight)
    if isinstance(stats, tuple):
        raise TypeError(
            "stats should be those of x, a Stats or a Delayed of batch_stats, got (mean, var); of "
            "fixed statistics, dx is batch_norm(dy, weight, stats=(0 * mean, var))"
        )
    stats, known = _checked(stats, seen)
    saved = arguments.asked(fastbn.Saved.of, seen, known, weight, eps=eps)
    empty = fastbn.backward(arguments.blank(gradient, seen.axes), saved)
    every, axes = tuple(range(seen.array.ndim)), seen.sorted
    records = _operand(stats, seen)

    def read(name, after):  # dy may be computed of x, so that both have one seed
        seed = f"{name}-{gradient.name}-{seen.array.name}"
        return [again(a, seed, _RESULTS, after) for a in (gradient, seen.array)]

    first, second = read(_SUMS, records)
    operands = first, every, second, every, records, axes
    options = {"eps": eps}
    sums = _reduced(seen, tasks.chunk_sums, tasks.add_sums, tasks.SUMS, _SUMS, operands, options)
    first, second = read("fastbn-input", sums)
    dx = da.blockwise(
        tasks.backward_input,
        every,
        *(first, every, second, every, records, axes, sums, axes),
        *(arguments.per_channel(weight, 1.0, seen), axes),
        align_arrays=False,
        token="fastbn-input",
        meta=np.empty((0,) * len(every), empty.dx.dtype),
        dtype=empty.dx.dtype,
        axes=axes,
        eps=eps,
    )
    dbias, dweight = (
        sums[name].transpose(seen.order).astype(empty.dweight.dtype) for name in tasks.NAMES
    )
    return seen.wrapped(dx), dweight, dbias
