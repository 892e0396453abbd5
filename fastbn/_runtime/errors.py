"""Checks of numbers and names, which every room needs.

A message names the argument, what came and what was expected. Those about arrays stand in
`fastbn._arrays.validate`.
"""

import math
import operator
from collections.abc import Sequence

import numpy as np


def integer(name: str, value) -> int:
    """A whole number; True and False are not meant as one."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} should be an integer, got {type(value).__name__}") from None


def whole(name: str, value, minimum: int) -> int:
    """An integer of at least so much that fits an int64."""
    result = integer(name, value)
    if result < minimum:
        raise ValueError(f"{name} should be at least {minimum}, got {result}")
    if result >= 1 << 63:
        raise ValueError(f"{name} should be at most 2**63 - 1, got {result}")
    return result


def number(name: str, value, minimum: float = -math.inf) -> float:
    """A real number of at least so much, which excludes NaN."""
    if type(value) is float and value >= minimum:
        return value
    try:
        # np.ndim takes longer than all else
        if type(value) is not int and (isinstance(value, str | bytes) or np.ndim(value)):
            raise TypeError
        result = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} should be a real number, got {type(value).__name__}") from None
    except OverflowError:
        raise ValueError(f"{name} should fit a float64, got an integer beyond it") from None
    if math.isnan(result):
        raise ValueError(f"{name} should be a number, got nan")
    if result < minimum:
        raise ValueError(f"{name} should be at least {minimum:g}, got {result}")
    return result


def choice(name: str, value, allowed: Sequence[str]) -> None:
    """One of several names."""
    if not isinstance(value, str) or value not in allowed:
        wanted = ", ".join(repr(item) for item in allowed)
        raise ValueError(f"{name} should be one of {wanted}, got {value!r}")
