"""Statistics of many batches, and how far one set of statistics lies from another."""

import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
from numpy.exceptions import AxisError

from .stats import Stats, batch_stats, mean_difference


def population_stats(
    batches: Iterable, *, channel_axis: int | tuple[int, ...] = 1, progress: bool = False
) -> Stats:
    """Statistics of all batches together, with one of them in memory at a time.

    Parameters
    ----------
    batches : iterable
        Arrays, or tuples ``(x, weights)``, as `batch_stats` takes them: a list, a generator that
        loads files, a `numpy.memmap` whose first axis is that of the batches. All have the same
        number of channels; sizes may differ. None is kept when the next one is asked for.
    channel_axis : int or tuple of int, default 1
        Of each batch; statistics run over all other axes. Of several, see `batch_norm`.
    progress : bool, default False
        Show a bar on standard error, if rich is installed.

    Returns
    -------
    Stats
        As of one array that holds all batches, with the exactness that `Stats` has in merging.
        Empty batches count for nothing: of these alone, empty statistics.

    Raises
    ------
    TypeError
        If `batches` are no iterable, or a batch or its weights are of the wrong kind.
    ValueError
        If there is no batch at all, a batch has another number of channels than the first, or a
        batch or its weights are of the wrong shape. Errors in a batch say in which: the first is
        number 0.

    Notes
    -----
    The formula of Chan, Golub & LeVeque (1983), batch after batch. Ioffe & Szegedy (2015),
    algorithm 2, take such statistics for evaluation.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.random.default_rng(0).normal(size=(1000, 3))
    >>> s = fastbn.population_stats(x[i : i + 64] for i in range(0, 1000, 64))
    >>> s.count, np.allclose(s.mean, x.mean(axis=0)), np.allclose(s.var(), x.var(axis=0))
    (1000.0, True, True)
    """
    try:
        remaining = iter(batches)
    except TypeError:
        kind = type(batches).__name__
        raise TypeError(f"batches should be an iterable of arrays, got {kind}") from None
    total, number = None, 0
    with _bar(progress, batches) as advance:
        # Neither `for` nor `enumerate`: both would hold a batch while the next one is made.
        while (batch := _next(remaining, number, channel_axis)) is not None:
            if total is not None and batch.mean.size != total.mean.size:
                raise ValueError(
                    f"batches should all have the same number of channels: batch 0 has "
                    f"{total.mean.size}, batch {number} has {batch.mean.size}"
                )
            total = batch if total is None else total + batch
            number += 1
            advance()
    if total is None:
        raise ValueError("batches should contain at least one batch, got none")
    return total


def _next(remaining: Iterator, number: int, channel_axis) -> Stats | None:
    """The statistics of the next batch; None behind the last."""
    for item in remaining:
        x, weights = item, None
        try:
            if isinstance(item, tuple):
                if len(item) != 2:
                    raise ValueError(
                        f"should be an array or (x, weights), got a tuple of {len(item)}"
                    )
                x, weights = item
            return batch_stats(x, channel_axis=channel_axis, weights=weights)
        except (TypeError, ValueError) as error:
            kind = next(k for k in (AxisError, ValueError, TypeError) if isinstance(error, k))
            raise kind(f"batch {number}: {error}") from error
    return None


@contextmanager
def _bar(progress: bool, batches: Iterable) -> Iterator[Callable[[], object]]:
    """What is to be called after each batch, for a bar to move."""
    if not progress or find_spec("rich") is None:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    total = operator.length_hint(batches, -1)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("batches", total=None if total < 0 else total)
        yield lambda: bar.advance(task)


def covariate_shift(stats: Stats, reference: Stats) -> np.ndarray:
    """How far the distribution of each channel has moved: the Jeffreys divergence.

    ``((v1 - v2)^2 / (v1 v2) + (m1 - m2)^2 (1 / v1 + 1 / v2)) / 2``, with means m and population
    variances v: the symmetric Kullback-Leibler divergence of two normal distributions, in nats.

    Parameters
    ----------
    stats, reference : Stats
        Of the same number of channels. Their order does not matter.

    Returns
    -------
    ndarray, shape (C,)
        float64, 0 for equal distributions. Where both channels are constant, 0 if their means are
        equal, else infinity; infinity where one of them is. NaN where a mean or variance is, and
        everywhere if one of the statistics is empty: there is nothing to compare.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a `Stats`, or their numbers of channels differ.

    Notes
    -----
    Jeffreys (1946); Kullback & Leibler (1951). The score does not depend on a channel's unit or
    offset. A mean that has moved by one of two equal standard deviations gives 1.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> reference = fastbn.Stats(10, np.zeros(3), np.full(3, 10.0))  # variance 1
    >>> moved = fastbn.Stats(10, [0.0, 1.0, 0.0], [10.0, 10.0, 40.0])
    >>> fastbn.covariate_shift(moved, reference)
    array([0.   , 1.   , 1.125])
    """
    for name, value in (("stats", stats), ("reference", reference)):
        if not isinstance(value, Stats):
            raise TypeError(f"{name} should be a Stats, got {type(value).__name__}")
    if stats.mean.size != reference.mean.size:
        raise ValueError(
            f"reference should have {stats.mean.size} channels, as stats, got {reference.mean.size}"
        )
    v1, v2 = stats.var(), reference.var()
    with np.errstate(all="ignore"):
        moved = mean_difference(stats, reference)
        # Quotients of what is near in size: products would overflow, or vanish.
        spread = ((v1 - v2) / v1) * ((v1 - v2) / v2)
        shift = (np.square(moved / np.sqrt(v1)) + np.square(moved / np.sqrt(v2)) + spread) / 2
        constant = (v1 == 0.0).astype(int) + (v2 == 0.0)
        infinite = (
            (constant == 1) | (constant == 2) & (moved != 0.0) | (np.isinf(v1) != np.isinf(v2))
        )
        known = ~(np.isnan(v1) | np.isnan(v2) | np.isnan(moved))
        shift[known & (constant == 2)] = 0.0
        shift[known & infinite] = np.inf
    return shift
