"""What every public function does with its arguments, and the one call into a forward pass."""

from functools import lru_cache

import numpy as np

from . import _layout, _passes, _validate
from ._running import kernels_take
from .stats import Stats


@lru_cache(maxsize=256)
def _constant(value: float, channels: int, dtype: np.dtype) -> np.ndarray:
    return np.full(channels, value, dtype)


def parameter(name: str, value, default: float, layout: _layout.Layout) -> np.ndarray:
    """Weight or bias in the dtype of the arithmetic."""
    if value is None:
        return _constant(default, layout.channels, layout.compute)
    return _validate.vector(name, value, layout.channels, layout.compute)


def given(stats, channels: int) -> tuple[np.ndarray, float]:
    """Statistics from outside as a buffer (mean, m2, room for invstd) and their count."""
    if isinstance(stats, Stats):
        if stats.mean.size != channels:
            raise ValueError(f"stats should have {channels} channels, got {stats.mean.size}")
        mean, m2, count = stats.mean, stats.m2, stats.count
    elif isinstance(stats, tuple) and len(stats) == 2:
        mean = _validate.vector("stats mean", stats[0], channels)
        m2, count = _validate.vector("stats var", stats[1], channels), 1.0
    else:
        raise TypeError(f"stats should be a Stats or (mean, var), got {type(stats).__name__}")
    buffer = np.empty(3 * channels)
    buffer[:channels], buffer[channels : 2 * channels] = mean, m2
    return buffer, count


def check_out(out, layout: _layout.Layout, alias, **others) -> None:
    """An output that is given may share memory with ``alias`` only."""
    _validate.output("out", out, layout.shape, layout.dtype)
    _validate.overlap(out, alias, **others)


def run_evaluation(flat, layout, weight, bias, eps, mean, var, out) -> np.ndarray:
    """Normalise with statistics that are checked."""
    values, result = _layout.target(layout, out, flat)
    if layout.plan is not None:
        if not kernels_take(mean, var):
            mean, var = np.array(mean, np.float64), np.array(var, np.float64)
        _passes.evaluate(layout.plan, flat, values, weight, bias, mean, var, eps)
    return _layout.finish(layout, result, out)


def run_forward(flat, layout, weight, bias, eps, buffer, count, task, out) -> np.ndarray:
    """Run the forward pass; the statistics are left in ``buffer``."""
    values, result = _layout.target(layout, out, flat)
    if layout.plan is not None:
        _passes.forward(
            layout.plan,
            task,
            flat,
            values,
            weight,
            bias,
            buffer,
            count or 1.0,  # of no values: variance 0, and a finite output
            eps,
        )
    elif task & _passes.REDUCE:
        buffer[:] = 0.0
    return _layout.finish(layout, result, out)
