"""Merging means and sums of squares to twice float64's digits, as the sum of a high and a low part.

Error-free sums are those of Knuth and Dekker (1971). Arrays are (2, ..., C), means and then sums of
squared deviations, and their low parts lie in a second one. Only elementwise ``+ - * /``, bits and
powers of two: the same digits on every processor.
"""

import math

import numpy as np

HUGE = 2.0**600  # a power of two, by which what overflows is divided
_LARGEST = float(np.finfo(np.float64).max)
_HEAD = np.int64(-1 << 27)  # the bits of a float64 but for its last 27 digits
_SPLIT = 2.0**27 + 1.0  # Dekker's, for 26 digits
ROOM = 1 << 16  # values that are merged at once: in the caches, and in bounded memory

# frexp, ldexp, maximum and minimum of floats, which take a tenth of an array's time; of arrays.
_OF_FLOATS = math.frexp, math.ldexp, max, min
_OF_ARRAYS = np.frexp, np.ldexp, np.maximum, np.minimum


def two_sum(a, b):
    """The sum, rounded, and what was rounded off: exact unless the sum overflows."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _two_sum(a, b):
    """`two_sum` of arrays of one shape, with less memory for what lies between."""
    total = a + b
    part = total - a
    rest = total - part
    np.subtract(a, rest, out=rest)
    np.subtract(b, part, out=part)
    rest += part
    return total, rest


def _head(value):
    """The first 26 digits."""
    moved = _SPLIT * value
    return moved - (moved - value)


def _shares(a, a_low, b, b_low):
    """b / (a + b) as 26 digits and the rest, and a * b / (a + b); of floats or arrays.

    Infinite counts are taken for the largest finite one.
    """
    frexp, ldexp, larger, smaller = _OF_FLOATS if type(a) is float else _OF_ARRAYS
    a, b = smaller(a, _LARGEST), smaller(b, _LARGEST)
    power = -frexp(larger(a, b))[1]
    b_low, own = ldexp(b_low, power), ldexp(b, power)
    n, rest = two_sum(ldexp(a, power), own)
    rest = rest + b_low + ldexp(a_low, power)
    head, n_head = _head(own / n), _head(n)
    # Each of the products is exact.
    tail = (((own - head * n_head) - head * (n - n_head)) + (b_low - head * rest)) / n
    return head, tail, a * (head + tail)


def _counts(a, a_low, b, b_low):
    """The sum of two counts, infinite where it is beyond float64."""
    total, low = two_sum(a, b)
    low = low + a_low + b_low
    high = total + low
    low = low - (high - total)
    if type(a) is float:
        return (high, low) if math.isfinite(total) else (total, 0.0)
    fine = np.isfinite(total)
    return np.where(fine, high, total), np.where(fine, low, 0.0)


def _chan(a, a_low, b, b_low, head, tail, factor):
    """Chan's formula: mean = a + share * (b - a), m2 = a + b + factor * (b - a)^2.

    No term of m2 is negative, so that a last digit lost in one is a last digit of the sum.
    """
    far, rest = _two_sum(b[0], -a[0])
    rest += b_low[0] - a_low[0]
    delta = far + rest
    far -= delta
    rest += far
    first = (delta.view(np.int64) & _HEAD).view(np.float64)
    more = np.empty_like(delta, shape=a.shape)
    np.multiply(head, first, out=more[0])  # exact
    more[1] = b[1]
    total, low = _two_sum(a, more)
    low += a_low
    rest += delta - first
    rest *= head
    rest += tail * delta
    low[0] += rest
    low[1] += b_low[1]
    low[1] += delta * factor * delta
    return _two_sum(total, low)


def _repair(high, low, a, a_low, b, b_low, *shares):
    """Merge the channels that overflowed once more, on means divided by a power of two.

    What is infinite or NaN itself has a low part of 0.
    """
    bad = ~np.isfinite(high).all(axis=0)
    shares = tuple(np.broadcast_to(share, bad.shape)[bad] for share in shares)
    a, a_low, b, b_low = (part[:, bad] for part in (a, a_low, b, b_low))
    parts = [np.stack([p[0] / HUGE, np.zeros(p.shape[1])]) for p in (a, a_low, b, b_low)]
    again, again_low = _chan(*parts, *shares)
    mean = np.where(np.isfinite(again[0]), again[0] * HUGE, a[0] + b[0])
    m2, rest = two_sum(a[1], b[1])
    m2, more = two_sum(m2, again[1] * HUGE * HUGE)
    better = np.stack([mean, m2])
    better_low = np.stack([again_low[0] * HUGE, rest + more + a_low[1] + b_low[1]])
    keep = np.isfinite(high[:, bad])
    high[:, bad] = better = np.where(keep, high[:, bad], better)
    low[:, bad] = np.where(keep, low[:, bad], better_low)
    low[~(np.isfinite(high) & np.isfinite(low))] = 0.0


def merge(counts, values, more_counts, more_values):
    """Merge parts with more parts, pair by pair: counts and values, each (high, low).

    The counts, all above 0, are floats, or arrays that broadcast to values without their first
    axis.
    """
    a, b = (counts[0], counts[1], more_counts[0], more_counts[1]), (*values, *more_values)
    with np.errstate(all="ignore"):
        shares = _shares(*a)
        high, low = _chan(*b, *shares)
        if not np.isfinite(high).all():
            _repair(high, low, *b, *shares)
        return _counts(*a), (high, low)


def fold(counts, values):
    """Merge all of so many parts, halves with halves: counts (2, P, 1) and values (2, 2, P, C).

    Both are written to. Returns the count (high, low) as floats, and the values (2, 2, C).
    """
    parts = counts.shape[1]
    while parts > 1:
        half = parts // 2
        first, second = slice(half), slice(half, 2 * half)
        merged = merge(
            counts[:, first], values[:, :, first], counts[:, second], values[:, :, second]
        )
        counts[:, first], values[:, :, first] = merged
        if parts % 2:
            counts[:, half], values[:, :, half] = counts[:, parts - 1], values[:, :, parts - 1]
        parts -= half
    return tuple(counts[:, 0, 0].tolist()), values[:, :, 0]
