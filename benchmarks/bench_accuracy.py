"""Rounding errors where the mean is far larger than the deviation. See accuracy.py."""

from functools import lru_cache

from . import accuracy
from .cases import LAYOUTS


@lru_cache(maxsize=2)
def errors(offset, layout):
    """The largest errors of outputs and of variances."""
    return accuracy.errors("fastbn", *accuracy.problem(offset, layout))


class Accuracy:
    """float32 data of deviation 1 about means of 0 to a million, against exact arithmetic."""

    params = (accuracy.OFFSETS, LAYOUTS)
    param_names = ("mean", "layout")
    unit = "ulp"
    timeout = 120

    def track_outputs(self, mean, layout):
        """In units of the last place of max(|y|, 1)."""
        return errors(mean, layout)[0]

    def track_variances(self, mean, layout):
        """In units of their own last place."""
        return errors(mean, layout)[1]
