"""Ghost batch norm (Hoffer et al. 2017) and batch renormalization (Ioffe 2017), for `layers`.

Both are calls of `forward` and `backward`: on groups of samples, and with other weights and biases.
"""

import math
from collections.abc import Callable

import numpy as np

from ._arrays import layout as _layout
from ._arrays import options as _options
from ._arrays import validate
from ._kernels import passes
from ._runtime import errors, threads
from ._runtime.jit import INTERPRETED, data_pointer
from .functional import PARAMETERS, Grads, Saved, backward, forward_any, parameter
from .stats import Stats, batch_stats, merge_stats, of_buffer


class Renormed:
    """What a backward pass needs of one that was renormalised.

    Attributes
    ----------
    saved : Saved
        Of the pass with weight ``r * weight`` and bias ``bias + d * weight``.
    r, d : ndarray, shape (C,)
        Constants to the backward pass.
    """

    __slots__ = ("d", "r", "saved")

    def __init__(self, saved: Saved, r: np.ndarray, d: np.ndarray):
        self.saved, self.r, self.d = saved, r, d

    @property
    def layout(self) -> _layout.Layout:
        return self.saved.layout

    @property
    def stats(self) -> Stats:
        return self.saved.stats

    @property
    def buffer(self) -> np.ndarray:
        return self.saved.buffer

    @property
    def count(self) -> float:
        return self.saved.count

    def backward(self, dy, needs, out=None) -> Grads:
        """`backward`, with the weight's own gradient."""
        every = needs[0], True, True
        dx, dweight, dbias, dresidual = backward(dy, self.saved, needs=every, out=out)
        with np.errstate(all="ignore"):
            own = self.r * dweight.reshape(-1) + self.d * dbias.reshape(-1)
        dweight = own.astype(dweight.dtype).reshape(dweight.shape)
        return Grads(dx, dweight if needs[1] else None, dbias if needs[2] else None, dresidual)


class Alike:
    """What a backward pass needs of groups of one size, which lie one behind the other in memory.

    Attributes
    ----------
    x : ndarray
        All of these groups.
    whole, part : Layout
        Of all groups, and of one.
    buffers : ndarray, shape (groups, 4, C)
        The statistics of each.
    options : Options or None
        Residual and activation, if there are any.
    """

    __slots__ = ("_bias", "_weight", "buffers", "options", "part", "whole", "x")

    def __init__(self, x, whole, part, weight, bias, buffers, options):
        self.x, self.whole, self.part, self.buffers = x, whole, part, buffers
        self._weight, self._bias, self.options = weight, bias, options

    def backward(self, dy, dx, dresidual) -> np.ndarray:
        """Fill dx and dresidual; gradients of weight and bias, summed: (2, C) of float64."""
        whole, part, task = self.whole, self.part, passes.BACKWARD | passes.REDUCE | passes.WRITE
        if not _layout.suits(whole, dy):
            whole, part = _layout.widened(whole), _layout.widened(part)
        x, flat = _layout.flatten(self.x, whole), _layout.flatten(dy, whole)
        values, result = _layout.target(whole, dx, x, flat)
        grads = np.empty((2, len(self.buffers), whole.channels), whole.compute)
        arrays = {"x": x, "dy": flat, "out": values, "stats": self.buffers}
        arrays |= {"dweight": grads[0], "dbias": grads[1]}
        also = None
        if dresidual is not None:
            arrays["dresidual"], also = _layout.target(whole, dresidual, values)
        more = _beside(self.options, whole, part, arrays)
        fields = {"weight": data_pointer(self._weight), "bias": data_pointer(self._bias)}
        assert part.plan is not None
        passes.each_part(part.plan, task, more, len(self.buffers), fields, arrays)
        _layout.finish(whole, result, dx)
        if also is not None:
            _layout.finish(whole, also, dresidual)
        return np.add.reduce(grads, axis=1, dtype=np.float64)


def _beside(options, whole: _layout.Layout, part, arrays: dict) -> passes.Options:
    """Residual and activation as passes over parts take them."""
    task, slope = 0, 0.0
    if options is not None:
        task, slope = options.activation, options.slope
        if options.residual is not None:
            task |= passes.RESIDUAL
            arrays["residual"] = _layout.flatten(options.residual, whole)
    return passes.options(task, float(part.n), slope)


class Groups:
    """What a backward pass needs of groups that were normalised one by one.

    Attributes
    ----------
    layout : Layout
        Of the whole batch.
    alike : tuple of (tuple of slice, Alike), or None
        The groups in front that one call has normalised, and where they lie.
    parts : list of (tuple of slice, Saved or Renormed)
        The others.
    stats : Stats
        The merged statistics of the whole batch.
    """

    __slots__ = ("_residual", "_x", "alike", "layout", "parts")

    def __init__(self, x: np.ndarray, layout: _layout.Layout, alike, parts: list, residual: bool):
        self._x, self.layout, self.alike, self.parts = x, layout, alike, parts
        self._residual = residual

    def _each(self) -> tuple[list[float], list[np.ndarray]]:
        """Count and buffer of every group."""
        counts = [saved.count for _, saved in self.parts]
        buffers = [saved.buffer for _, saved in self.parts]
        if self.alike is None:
            return counts, buffers
        group = self.alike[1]
        return [float(group.part.n)] * len(group.buffers) + counts, [*group.buffers, *buffers]

    @property
    def count(self) -> float:
        return math.fsum(self._each()[0])

    @property
    def stats(self) -> Stats:
        return merge_stats(map(of_buffer, *reversed(self._each())))

    @property
    def buffer(self) -> np.ndarray:
        """Mean and m2 of the whole batch, for running statistics: in float64 alone.

        Of 64 groups and 64 channels they take 70 us, `stats` 300: half of what the groups take
        (AMD EPYC, 2026-11).
        """
        counted = [(count, buffer) for count, buffer in zip(*self._each(), strict=True) if count]
        if not counted:
            return np.zeros((2, self.layout.channels))
        total = math.fsum(count for count, _ in counted)
        counts = np.array([count for count, _ in counted])[:, None]
        mean, m2, _, low = np.stack([buffer for _, buffer in counted], axis=1)
        with np.errstate(all="ignore"):
            moved = (mean - mean[0]) + (low - low[0])
            shift = np.add.reduce(counts / total * moved)
            moved -= shift
            m2 += counts * (moved * moved)
            return np.stack((mean[0] + shift, np.add.reduce(m2)))

    def backward(self, dy, needs) -> Grads:
        """The gradients of the groups side by side; the sums of those of weight and bias."""
        dy, layout = validate.array("dy", dy), self.layout
        validate.gradient("dy", dy, layout.shape)
        dx = _layout.empty_like(self._x, layout.dtype)
        dresidual = _layout.empty_like(self._x, layout.dtype) if self._residual else None
        sums = np.zeros((2, layout.channels))
        if self.alike is not None:
            where, group = self.alike
            of_residual = None if dresidual is None else dresidual[where]
            sums += group.backward(dy[where], dx[where], of_residual)
        for where, saved in self.parts:
            grads = gradients(dy[where], saved, (True, True, True), dx[where])
            sums += [grad.reshape(-1) for grad in grads[1:3]]
            if dresidual is not None:
                dresidual[where] = grads.dresidual
        dweight, dbias = sums.astype(layout.compute).reshape(2, *layout.channel_shape)
        return Grads(dx, dweight if needs[1] else None, dbias if needs[2] else None, dresidual)


def gradients(dy, saved: Saved | Renormed | Groups, needs, out=None) -> Grads:
    """`backward` of any of them."""
    if isinstance(saved, Saved):
        return backward(dy, saved, needs=needs, out=out)
    if isinstance(saved, Renormed):
        return saved.backward(dy, needs, out)
    return saved.backward(dy, needs)


def forward_groups(
    one: Callable, parameters, size: int, x: np.ndarray, channel_axis, options, minimum: int
) -> tuple[np.ndarray, Groups | Saved | Renormed]:
    """Normalise consecutive groups of samples, each by its own statistics.

    ``one`` does so for x, options and out. Where it does no more than batch norm, ``parameters``
    are weight, bias and eps. ``size`` samples are a group, along the first axis that is not one of
    channels; ``minimum``: of values per channel that a group may have, at least.
    """
    _, layout = _layout.see(x, channel_axis)
    weights = residual = None
    if options is not None:
        weights, residual, *applied = options
        if residual is not None:
            residual = validate.array("residual", residual)
        _options.checked(layout, None, residual, *applied)
        if weights is not None:
            weights = _options.spread(validate.array("weights", weights), layout)
    axis = next((i for i in range(x.ndim) if i not in layout.axes), None)
    if axis is None:  # there are no samples, but one value a channel
        return one(x, options, None)
    each = layout.n // layout.shape[axis] if layout.n else 0  # values a channel in a sample
    bounds = _bounds(layout.shape[axis], size, each)
    y, alike, parts = _layout.empty_like(x, layout.dtype), None, []
    fewest = each * min(end - begin for begin, end in bounds)
    if fewest == 1 < minimum:
        raise validate.single_value(_shape(layout.shape, axis, 1))

    def part(begin: int, end: int):
        where = (slice(None),) * axis + (slice(begin, end),)
        beside = None
        if options is not None:
            of_weights = None if weights is None else weights[begin:end]
            beside = of_weights, None if residual is None else residual[where], *applied
        return where, (x[where], beside, y[where])

    count = sum(end - begin == size for begin, end in bounds)
    if parameters is not None and weights is None and _fits(layout, axis, size, count):
        where, given = part(0, count * size)
        alike = where, _forward_alike(given, parameters, axis, size, layout.axes)
        bounds = bounds[count:]
    for begin, end in bounds:
        where, given = part(begin, end)
        parts.append((where, one(*given)[1]))
    return y, Groups(x, layout, alike, parts, residual is not None)


def _shape(shape: tuple[int, ...], axis: int, length: int) -> tuple[int, ...]:
    """A shape with another length of one axis."""
    return (*shape[:axis], length, *shape[axis + 1 :])


def _fits(layout: _layout.Layout, axis: int, size: int, count: int) -> bool:
    """Whether groups lie one behind the other, and are too small or too many for a team each."""
    if INTERPRETED or layout.plan is None or count < 2:
        return False
    if axis != (0 if layout.order is None else layout.order[0]):
        return False
    plan = _layout.part(layout, _shape(layout.shape, axis, size)).plan
    return plan is not None and (plan.team == 1 or count >= 4 * threads.get_num_threads())


def _forward_alike(given, parameters, axis: int, size: int, axes) -> Alike:
    """Normalise groups of one size, each of them by one thread: of x with options, into out."""
    x, options, out = given
    flat, whole = _layout.see(x, axes)
    weight = parameter(PARAMETERS[0], parameters[0], 1.0, whole)
    bias = parameter(PARAMETERS[1], parameters[1], 0.0, whole)
    eps = errors.number("eps", parameters[2], 0.0)
    asked = None
    if options is not None:
        asked = _options.checked(whole, *options)
        if not _layout.suits(whole, asked.residual):
            flat, whole = _layout.see(x, axes, wide=True)
    part, count = _layout.part(whole, _shape(whole.shape, axis, size)), x.shape[axis] // size
    values, result = _layout.target(whole, out, flat)
    buffers = np.empty((count, 4, whole.channels))
    arrays = {"x": flat, "out": values, "stats": buffers}
    more = _beside(asked, whole, part, arrays)
    numbers = {"count": part.n, "eps": eps}
    fields = {"weight": data_pointer(weight), "bias": data_pointer(bias)} | numbers
    assert part.plan is not None  # see `_fits`
    passes.each_part(part.plan, passes.REDUCE | passes.WRITE, more, count, fields, arrays)
    _layout.finish(whole, result, out)
    return Alike(x, whole, part, weight, bias, buffers, asked)


def _bounds(length: int, size: int, each: int) -> list[tuple[int, int]]:
    """Where groups begin and end; a rest of one value a channel joins the group before."""
    bounds = [(begin, min(begin + size, length)) for begin in range(0, length, size)] or [(0, 0)]
    if length > size > 1 and length % size * each == 1:
        (begin, _), (_, end) = bounds[-2:]
        bounds[-2:] = [(begin, end)]
    return bounds


def forward_renormed(
    x, parameters, running, limits, eps: float, channel_axis, options, out
) -> tuple[np.ndarray, Renormed]:
    """Normalise a batch, and move and scale the result to where running statistics would have it.

    ``parameters``: weight and bias, or None; ``running``: mean and variance; ``limits``: of r and
    of d.
    """
    weights = None if options is None else options[0]
    stats = batch_stats(x, channel_axis=channel_axis, weights=weights)
    mean, var = (np.asarray(value, np.float64) for value in running)
    with np.errstate(all="ignore"):
        sigma = np.sqrt(var + eps)
        ratio = np.sqrt(stats.m2 / (stats.count or 1.0) + eps) / sigma
        moved = (stats.mean - mean) / sigma
        # 0 by 0, where variances and eps are 0: nothing tells them apart.
        ratio[np.isnan(ratio) & (sigma == 0.0)] = 1.0
        moved[np.isnan(moved) & (sigma == 0.0)] = 0.0
        r, d = np.clip(ratio, 1.0 / limits[0], limits[0]), np.clip(moved, -limits[1], limits[1])
        weight, bias = _renormed_parameters(parameters, r, d)
    given = x, weight, bias, eps, channel_axis, stats, options, out, 1, PARAMETERS
    y, saved = forward_any(*given)
    saved.fixed = False  # the batch's own
    return y, Renormed(saved, r, d)


def _renormed_parameters(parameters, r: np.ndarray, d: np.ndarray) -> list[np.ndarray]:
    """What ``(xhat * r + d) * weight + bias`` multiplies xhat with, and adds to that."""
    weight, bias = (
        value if value is None else validate.vector(name, value, r.size, np.dtype(np.float64))
        for name, value in zip(PARAMETERS, parameters, strict=True)
    )
    scale, shift = (r, d) if weight is None else (r * weight, d * weight)
    return [scale, shift if bias is None else shift + bias]
