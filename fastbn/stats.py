"""Statistics that merge, and running statistics: the one place that moves them.

What `fastbn` does not hand out is for the other public files: buffers, and what is made of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from . import _doubled
from ._arrays import layout as _layout
from ._arrays import options as _options
from ._arrays import validate
from ._kernels import passes
from ._runtime import errors, memory

_set = object.__setattr__  # of what is frozen
Low = tuple[float, np.ndarray | None, np.ndarray | None]  # of count, mean and m2; None: zeros
_NONE: Low = (0.0, None, None)
_AGAIN = 1 << 20  # values, 8 MB, that are divided by a power of two at once


@dataclass(frozen=True, slots=True, eq=False)
class Stats:
    """Count, mean and sum of squared deviations of each channel.

    Parameters
    ----------
    count : float
        Values per channel (their total weight), at least 0.
    mean : array_like, shape (C,)
        Mean of each channel; kept as read-only float64.
    m2 : array_like, shape (C,)
        Sum of squared deviations from the mean; kept as read-only float64.

    Notes
    -----
    ``a + b`` merges two, `merge_stats` any number of them, by the formula of Chan, Golub & LeVeque
    (1983); an empty one changes nothing.

    Behind what the three fields show, an instance keeps what was rounded off each of them: 10,000
    parts merge, in any order, to the last digit of the mean and 1e-14 of the variance (error-free
    sums: Knuth; Dekker 1971). Copies, pickles and `to_array` keep these digits, too.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> s = fastbn.batch_stats(np.array([[1.0, 10.0], [3.0, 10.0]]))
    >>> s.count, s.mean, s.var()
    (2.0, array([ 2., 10.]), array([1., 0.]))
    >>> (s + s).count
    4.0
    """

    count: float
    mean: np.ndarray
    m2: np.ndarray
    _low: Low = field(init=False, repr=False)  # what was rounded off

    def __post_init__(self):
        count = errors.number("count", self.count, 0.0)
        mean = validate.array("mean", self.mean)
        mean = validate.vector("mean", mean, mean.size)
        m2 = validate.vector("m2", self.m2, mean.size)
        self._keep(count, np.array(mean, np.float64), np.array(m2, np.float64))

    def _keep(self, count: float, mean: np.ndarray, m2: np.ndarray, low: Low = _NONE) -> "Stats":
        mean.setflags(write=False)
        m2.setflags(write=False)
        _set(self, "count", count)
        _set(self, "mean", mean)
        _set(self, "m2", m2)
        _set(self, "_low", low)
        return self

    def __reduce__(self):
        return _new, (self.count, self.mean, self.m2, self._low)  # read-only again

    @classmethod
    def empty(cls, channels: int) -> "Stats":
        """Statistics of no values, for `channels` channels."""
        channels = errors.whole("channels", channels, 0)
        return _new(0.0, np.zeros(channels), np.zeros(channels))

    def var(self, ddof: float = 0) -> np.ndarray:
        """Variance of each channel, ``m2 / (count - ddof)``; NaN where ``count <= ddof``."""
        ddof = errors.number("ddof", ddof)
        if self.count <= ddof:
            return np.full_like(self.mean, np.nan)
        with np.errstate(all="ignore"):
            return self.m2 / (self.count - ddof)

    def std(self, ddof: float = 0) -> np.ndarray:
        """Standard deviation of each channel, the root of `var`."""
        return np.sqrt(self.var(ddof))

    def to_array(self) -> np.ndarray:
        """Every digit in one buffer, for messages and files, of which `from_array` makes the same.

        Returns
        -------
        ndarray, shape (2 + 4 * C,)
            float64: the count and what was rounded off it, the means, what was rounded off these,
            the sums of squared deviations, and what was rounded off those.

        Examples
        --------
        >>> import fastbn
        >>> s = fastbn.Stats(4, [0.5], [2.0])
        >>> s.to_array()
        array([4. , 0. , 0.5, 0. , 2. , 0. ])
        >>> fastbn.Stats.from_array(s.to_array())
        Stats(count=4.0, mean=array([0.5]), m2=array([2.]))
        """
        values = _digits(self)
        return np.concatenate([[self.count, self._low[0]], *values[:, 0], *values[:, 1]])

    @classmethod
    def from_array(cls, a: np.ndarray) -> "Stats":
        """The statistics whose `to_array` gave an array of shape (2 + 4 * C,); it is copied.

        Raises
        ------
        TypeError, ValueError
            If `a` is no 1-D float64 array of such a length, or its count is negative or NaN.
        """
        a = validate.array("a", a)
        if a.dtype.newbyteorder("=") != np.float64:
            raise TypeError(f"a should be an array of float64, got dtype {a.dtype}")
        if a.ndim != 1 or a.size < 2 or a.size % 4 != 2:
            raise ValueError(f"a should have shape (2 + 4 * C,) for C channels, got {a.shape}")
        count, count_low = a[:2].tolist()
        count = errors.number("the count in a", count, 0.0)
        mean, mean_low, m2, m2_low = np.array(a[2:], np.float64).reshape(4, -1)
        return _new(count, mean, m2, (count_low, mean_low, m2_low))

    def __add__(self, other: "Stats") -> "Stats":
        if not isinstance(other, Stats):
            return NotImplemented
        _same_channels((self, other))
        if self.count == 0.0 or other.count == 0.0:
            return self if other.count == 0.0 else other
        counts = [(part.count, part._low[0]) for part in (self, other)]
        return _of_digits(*_doubled.merge(counts[0], _digits(self), counts[1], _digits(other)))


def _new(count: float, mean: np.ndarray, m2: np.ndarray, low: Low = _NONE) -> Stats:
    """`Stats` of arrays that are ours: nothing is checked or copied."""
    return object.__new__(Stats)._keep(count, mean, m2, low)


def _digits(stats: Stats) -> np.ndarray:
    """Means and sums of squares, high and then low parts: (2, 2, C)."""
    values = np.empty((2, 2, stats.mean.size))
    values[0, 0], values[0, 1] = stats.mean, stats.m2
    for row, low in zip(values[1], stats._low[1:], strict=True):
        row[:] = 0.0 if low is None else low
    return values


def _of_digits(count, values) -> Stats:
    """`Stats` of a count and values (2, C), each as high and low parts."""
    (mean, m2), (mean_low, m2_low) = values
    return _new(count[0], mean, m2, (count[1], mean_low, m2_low))


def mean_difference(a: Stats, b: Stats) -> np.ndarray:
    """The means of one less those of the other, rounded once."""
    low = [0.0 if part._low[1] is None else part._low[1] for part in (a, b)]
    far, rest = _doubled.two_sum(a.mean, -b.mean)
    rest += low[0] - low[1]
    return np.where(np.isfinite(rest), far + rest, far)


def batch_stats(x, *, channel_axis: int | tuple[int, ...] = 1, weights=None) -> Stats:
    """Count, mean and sum of squared deviations of each channel of an array.

    Parameters
    ----------
    x : array_like
        At least 2-D, real. float64, integers and booleans are summed in float64; float32, float16
        and bfloat16 some 32 terms at a time in float32, and those sums in float64.
    channel_axis : int or tuple of int, default 1
        Statistics run over all other axes. Of several axes, each combination is a channel.
    weights : array_like, optional
        How much each sample and position counts: booleans (a mask) or real numbers, at least 0. Of
        x's shape without the axis of the channels, or with 1 in its place; axes of length 1 are
        repeated. Where a weight is 0, `x` may be NaN.

    Returns
    -------
    Stats
        With one value a channel the variance is 0; of an empty array, or of weights that are all 0,
        empty statistics. The count is the total weight.

    Raises
    ------
    TypeError
        If `x` or `weights` are complex, an object, string or time array, or masked.
    ValueError
        If `x` has fewer than two dimensions (``AxisError`` if `channel_axis` is out of range), or
        `weights` have another shape, are negative, or have no finite total.

    Notes
    -----
    One pass over the data, shifted to near each channel's mean and merged block by block (Welford
    1962; Chan, Golub & LeVeque 1983); a second one, all in float64, for what float32 cannot hold.

    The sums of float32 data leave means up to 1e-7 standard deviations off, and variances up to
    2.5e-7 of their size: two units in float32's last place, of few values a channel. Of a thousand
    and more, both are within 5e-8. ``x.astype(numpy.float64)`` keeps all digits of float64.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.arange(12.0).reshape(2, 3, 2)
    >>> fastbn.batch_stats(x).mean
    array([3.5, 5.5, 7.5])
    """
    x = validate.array("x", x)
    buffer, count, layout = _summed(x, channel_axis, weights)
    if buffer is None:
        return Stats.empty(layout.channels)
    if layout.compute.itemsize == 8:
        m2 = buffer[1]  # argmax finds a NaN before all else, in a third of max's time
        if not m2[m2.argmax()] < np.inf:
            _sum_overflowed(x, layout, weights, buffer)
    return of_buffer(buffer, count)


def _summed(x: np.ndarray, channel_axis, weights):
    """The statistics of an array in a buffer, None if there are none; their count; the layout."""
    flat, layout = _layout.see(x, channel_axis)
    count, given, more = float(layout.n), None, None
    if weights is not None:
        given = _options.beside(weights, layout)
        more = _options.of_pass(_options.Options(given, None, 0, 0.0), layout)
        count = given.total
    if layout.plan is None or count == 0.0:
        return None, 0.0, layout
    buffer, none = of_channels(layout.channels), flat
    if layout.words is not None:
        none = np.empty(0, layout.compute)
    passes.forward(layout.plan, passes.REDUCE, more, flat, flat, none, none, buffer, 1.0, 0.0)
    if given is not None:
        given.rescale(buffer)
    return buffer, count, layout


def _sum_overflowed(x: np.ndarray, layout, weights, buffer: np.ndarray) -> None:
    """Sum channels that overflowed once more, of values divided by a power of two.

    Those that hold NaN or infinity stay what they are; most are told by their first values.
    """
    axes, shape = layout.axes, layout.channel_shape
    channels = np.moveaxis(x, axes, range(len(axes)))
    if weights is not None:
        weights = _options.spread(validate.array("weights", weights), layout).reshape(-1)
    found = np.flatnonzero(~np.isfinite(buffer[1]))
    if weights is None:
        found = _finite(channels, found, shape)
    step = max(1, _AGAIN // layout.n)
    with np.errstate(all="ignore"):
        for start in range(0, found.size, step):
            some = found[start : start + step]
            part = channels[np.unravel_index(some, shape)] / _doubled.HUGE
            again = _summed(part.reshape(some.size, layout.n), 0, weights)[0]
            fine = np.isfinite(again[0])
            some, again = some[fine], again[:, fine] * _doubled.HUGE
            buffer[0, some], buffer[1, some] = again[0], again[1] * _doubled.HUGE
            buffer[3, some] = again[3]


def _finite(channels: np.ndarray, found: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Those of the channels `found` that hold neither NaN nor infinity."""
    values = np.moveaxis(channels[..., None], len(shape), 0)  # the first axis of no channels
    step = max(1, _AGAIN * len(values) // channels.size)
    for start in range(0, len(values), step):
        part = np.moveaxis(values[start : start + step], 0, -1)[np.unravel_index(found, shape)]
        found = found[np.isfinite(part).reshape(found.size, -1).all(axis=1)]
        if not found.size:
            break
    return found


def of_channels(channels: int) -> np.ndarray:
    """Room for mean, m2, invstd and what was rounded off the mean, of so many channels."""
    if channels < memory.SMALL // 4:
        return np.empty((4, channels))
    return memory.empty((4, channels), np.dtype(np.float64))


def buffer_of(stats, mean: np.ndarray, m2: np.ndarray) -> np.ndarray:
    """Statistics from outside as a pass takes them, with room for invstd."""
    buffer = of_channels(mean.size)
    buffer[0], buffer[1] = mean, m2
    low = stats._low[1] if isinstance(stats, Stats) else None
    buffer[3] = 0.0 if low is None else low
    return buffer


def of_buffer(buffer: np.ndarray, count: float) -> Stats:
    """The statistics that a forward pass left in its buffer (see `of_channels`)."""
    return _new(count, buffer[0], buffer[1], (0.0, buffer[3], None))


def merge_stats(stats: Iterable[Stats]) -> Stats:
    """Merge statistics of disjoint parts into those of the whole.

    Parameters
    ----------
    stats : iterable of Stats
        At least one, all of the same number of channels; counts may differ.

    Returns
    -------
    Stats

    Raises
    ------
    TypeError, ValueError
        If there is none, one is not a `Stats`, or the numbers of channels differ.

    Notes
    -----
    The formula of Chan, Golub & LeVeque (1983), halves with halves, to twice float64's digits:
    `Stats` says how exactly.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.random.default_rng(0).normal(size=(10, 3))
    >>> parts = [fastbn.batch_stats(x[:4]), fastbn.batch_stats(x[4:])]
    >>> np.allclose(fastbn.merge_stats(parts).var(), x.var(axis=0))
    True
    """
    if isinstance(stats, Stats) or not isinstance(stats, Iterable):
        raise TypeError(f"stats should be an iterable of Stats, got {type(stats).__name__}")
    parts = list(stats)
    for part in parts:
        if not isinstance(part, Stats):
            raise TypeError(f"stats should contain Stats, got {type(part).__name__}")
    if not parts:
        raise ValueError("stats should contain at least one Stats, got none")
    _same_channels(parts)
    parts = [part for part in parts if part.count > 0] or parts[:1]
    step = max(2, _doubled.ROOM // max(1, parts[0].mean.size))
    while len(parts) > 1:
        parts = [_merged(parts[i : i + step]) for i in range(0, len(parts), step)]
    return parts[0]


def _same_channels(parts: Iterable[Stats]) -> None:
    sizes = sorted({part.mean.size for part in parts})
    if len(sizes) > 1:
        raise ValueError(f"stats should all have the same number of channels, got {sizes}")


def _merged(parts: list[Stats]) -> Stats:
    """Merge a few, none of which is empty."""
    if len(parts) == 1:
        return parts[0]
    none, shape = np.zeros(parts[0].mean.size), (len(parts), parts[0].mean.size)
    counts = np.array([[part.count for part in parts], [part._low[0] for part in parts]])
    values = np.empty((2, 2, *shape))
    for place, rows in zip(
        values.reshape(4, -1),
        (
            [part.mean for part in parts],
            [part.m2 for part in parts],
            [none if part._low[1] is None else part._low[1] for part in parts],
            [none if part._low[2] is None else part._low[2] for part in parts],
        ),
        strict=True,
    ):
        np.concatenate(rows, out=place)
    return _of_digits(*_doubled.fold(counts[:, :, None], values))


def update_running_stats(
    running_mean: np.ndarray,
    running_var: np.ndarray,
    stats: Stats,
    momentum: float = 0.1,
    *,
    ddof: int = 1,
    nonfinite: str = "propagate",
) -> None:
    """Move running statistics towards those of a batch, in place.

    ``running = (1 - momentum) * running + momentum * batch``: `momentum` is the weight of the
    **new** value, as in PyTorch.

    Parameters
    ----------
    running_mean, running_var : ndarray, shape (C,)
        Updated in place; any stride, any float dtype. Both are written, or neither.
    stats : Stats
        Of the batch. Empty ones change nothing.
    momentum : float, default 0.1
        Weight of the batch.
    ddof : int, default 1
        1 takes the unbiased variance (the population variance where ``count < 2``), 0 the
        population variance.
    nonfinite : {"propagate", "skip", "raise"}
        What to do if any mean or variance of the batch is NaN or infinite: go on, leave all
        channels as they are, or raise.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape or range; nothing is changed.
    FloatingPointError
        With ``nonfinite="raise"``, naming the channels; nothing is changed.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> mean, var = np.zeros(2), np.ones(2)
    >>> s = fastbn.batch_stats(np.array([[1.0, 4.0], [3.0, 4.0]]))
    >>> fastbn.update_running_stats(mean, var, s, momentum=0.5)
    >>> mean, var
    (array([1., 2.]), array([1.5, 0.5]))
    """
    if not isinstance(stats, Stats):
        raise TypeError(f"stats should be a Stats, got {type(stats).__name__}")
    ordinary = validate.running_pair(running_mean, running_var, stats.mean.size)
    momentum = errors.number("momentum", momentum)
    less = errors.number("ddof", ddof, 0.0)
    errors.choice("nonfinite", nonfinite, ("propagate", "skip", "raise"))
    batch = np.array((stats.mean, stats.m2))
    given = running_mean, running_var, ordinary, batch, stats.count, momentum, less, nonfinite
    move_running_stats(*given)


def move_running_stats(
    running_mean, running_var, ordinary, buffer, count, momentum, ddof=1.0, nonfinite="propagate"
) -> bool:
    """`update_running_stats` by a forward pass's buffer and count, for arguments that are checked.

    ``ordinary``: the two are an `validate.ordinary_pair`; else either may be None. A momentum of
    None puts the batch's in their place. Returns whether the statistics were taken.
    """
    if ordinary and nonfinite == "propagate" and count > 0:
        passes.move(running_mean, running_var, buffer, _divisor(count, ddof), momentum)
        return True
    return _move(running_mean, running_var, buffer, count, momentum, ddof, nonfinite)


def _divisor(count: float, ddof: float) -> float:
    """What m2 is divided by: weights of total 1.001 would multiply it by 1000."""
    return count - ddof if count >= 1.0 + ddof else count


def _move(running_mean, running_var, batch, count, momentum, ddof, nonfinite) -> bool:
    """The same for running arrays of any kind and a batch's mean and m2, in front."""
    if count == 0:
        return False
    mean, m2 = batch[0], batch[1]
    with np.errstate(all="ignore"):
        var = m2 / _divisor(count, ddof)
        if nonfinite != "propagate":
            bad = np.flatnonzero(~(np.isfinite(mean) & np.isfinite(var)))
            if bad.size and nonfinite == "skip":
                return False
            if bad.size:
                raise FloatingPointError(
                    f"mean or variance is not finite in channels {bad.tolist()}"
                )
        for running, new in ((running_mean, mean), (running_var, var)):
            if running is not None:
                moved = new
                if momentum is not None:
                    moved = np.multiply(running, 1.0 - momentum, dtype=np.float64)
                    moved += momentum * new
                running[...] = moved  # nothing that can fail comes between the two
    return True
