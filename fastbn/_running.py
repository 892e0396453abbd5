"""Running statistics: the one place that moves them."""

import numpy as np

from . import _passes

Moments = tuple[float, np.ndarray, np.ndarray]  # count, mean, m2: `Stats` without its guarantees
KERNEL_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def move_running_stats(
    running_mean, running_var, moments: Moments, momentum: float, ddof: float, nonfinite: str
) -> bool:
    """`stats.update_running_stats` for arguments that are checked; either array may be None.

    Returns whether the statistics were taken.
    """
    count, mean, m2 = moments
    if count == 0:
        return False
    ordinary = kernels_take(running_mean, running_var) and mean.flags.writeable
    if nonfinite == "propagate" and ordinary:
        divisor = count - ddof if count > ddof else count
        _passes.move(running_mean, running_var, mean, m2, float(divisor), float(momentum))
        return True
    with np.errstate(all="ignore"):
        var = m2 / (count - ddof if count > ddof else count)
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
                moved = np.multiply(running, 1.0 - momentum, dtype=np.float64)
                moved += momentum * new
                running[...] = moved  # nothing that can fail comes between the two
    return True


def kernels_take(mean, var) -> bool:
    """Whether kernels take two statistics as they are: what NumPy does takes longer than a call."""
    return (
        type(mean) is type(var) is np.ndarray
        and mean.dtype is var.dtype
        and mean.dtype in KERNEL_DTYPES
        and mean.flags.carray
        and var.flags.carray
    )
