"""Statistics of batches that Dask makes."""

from typing import Any

from dask.delayed import Delayed, delayed

from . import _arguments as arguments
from . import _tasks as tasks
from ._functions import SPLIT, of_input


def population_stats(batches, *, channel_axis=1) -> Delayed:
    """Statistics of all batches together, when Dask computes them.

    Parameters
    ----------
    batches : iterable
        Of Dask arrays, NumPy arrays, DataArrays, or `dask.delayed.Delayed` objects that compute to
        NumPy arrays, for example one for each file; or tuples ``(x, weights)`` of these. A Delayed
        may compute to such a tuple. All have the same number of channels; sizes may differ. An
        array's batches are those along its first axis.
    channel_axis : int or tuple of int, default 1
        The axis of the channels of each batch, see `batch_norm`.

    Returns
    -------
    Delayed
        Computes to `fastbn.Stats`, as of one array that holds all batches. Empty batches count for
        nothing.

    Raises
    ------
    TypeError, ValueError
        If `batches` are no iterable or there is none; a batch or its weights are of the wrong kind
        or shape; a batch has another number of channels. The message has the batch's number; the
        first is 0. Errors of a Delayed are raised when Dask computes it.

    Notes
    -----
    Batches merge in a tree, in their order, by the formula of Chan, Golub & LeVeque (1983). A
    Delayed is one task, and so has to fit in memory.

    Examples
    --------
    >>> import numpy as np
    >>> from dask import delayed
    >>> from fastbn.adapters.dask import population_stats
    >>> load = delayed(lambda seed: np.random.default_rng(seed).normal(size=(100 + seed, 3)))
    >>> stats = population_stats(load(seed) for seed in range(10))
    >>> stats.compute().count
    1045.0
    """
    if arguments.is_array(batches):
        return _along_first(batches, channel_axis)
    try:
        items = list(batches)
    except TypeError:
        kind = type(batches).__name__
        raise TypeError(f"batches should be an iterable of arrays, got {kind}") from None
    parts, known = [], None
    for number, item in enumerate(items):
        try:
            channels, stats = _batch(number, item, channel_axis)
        except (TypeError, ValueError) as error:
            raise tasks.named(number, error) from error
        if channels is not None:
            known = known or (number, channels)
            tasks.check_channels(known, (number, channels))
        parts.append((number, stats))
    if not parts:
        raise _none()
    while True:
        groups = [parts[i : i + SPLIT] for i in range(0, len(parts), SPLIT)]
        merge = delayed(tasks.merge_batches, pure=True)
        parts = [(group[0][0], merge(group)) for group in groups]
        if len(parts) == 1:
            return parts[0][1]


def _none() -> ValueError:
    return ValueError("batches should contain at least one batch, got none")


def _along_first(batches, channel_axis) -> Delayed:
    """Statistics of an array's batches: those of the array, but that its axes have moved by one."""
    array = arguments.collection("batches", batches)
    if array.ndim and not array.shape[0]:
        raise _none()
    try:
        return of_input(arguments.see(batches, channel_axis, "batches", skip=1))
    except (TypeError, ValueError) as error:
        raise tasks.named(0, error) from error


def _batch(number: int, item, channel_axis) -> tuple[int | None, Any]:
    """How many channels a batch has, if that is known, and its statistics."""
    x, weights = item, None
    if isinstance(item, tuple):
        if len(item) != 2:
            raise ValueError(f"should be an array or (x, weights), got a tuple of {len(item)}")
        x, weights = item
    if isinstance(x, Delayed) or isinstance(weights, Delayed):
        given = number, x, weights, channel_axis
        return None, delayed(tasks.numbered_batch, pure=True)(*given)
    seen = arguments.see(x, channel_axis)
    return seen.channels, of_input(seen, arguments.weights(weights, seen))
