"""Launches of a team that come late, and what follows: calls compute alone for a while.

Beside other busy processes, a launch waits for a thread that the scheduler has put aside: 8 ms
instead of 0.1 (two processes that spin on two cores of an AMD EPYC, OpenMP, 2026-11). Whether a
team or one thread computes changes no bit, so whoever has met a late launch need not try again
soon.
"""

import math
from time import perf_counter

# A launch is late that takes so many seconds longer than one thread alone has taken, or than so
# many times the best launch of its kind. As long as one thread was not seen alone: than so many
# seconds a value, which is long; where it is short, as on slow memory, one thread is seen next.
DELAY, TIMES, VALUE = 5e-4, 4.0, 2e-9
# Seconds alone after a late launch, so many times as many after each of the next ones, and at most;
# after so many launches in time all is forgotten. The first are short, for any machine has hiccups;
# a second is long enough for late launches to be rare among calls of a millisecond, and short
# enough to notice that the others are gone.
FIRST, GROWTH, MOST, IN_TIME = 0.005, 4.0, 1.0, 64


class Kind:
    """Calls that do one and the same: how long they took, at best, alone and in a team."""

    __slots__ = ("_alone", "_least", "_values")

    def __init__(self, values: int):
        self._values, self._alone, self._least = values, math.inf, math.inf

    def alone(self, seconds: float) -> None:
        """How long one thread took."""
        self._alone = min(self._alone, seconds)

    def late(self, seconds: float) -> bool:
        """Whether a launch that took so long was late."""
        if self._least <= seconds < DELAY:  # most launches
            return False
        alone = self._alone if self._alone < math.inf else VALUE * self._values
        limit = DELAY + min(alone, TIMES * self._least)
        self._least = min(self._least, seconds)
        return seconds > limit


class Pace:
    """Of a process: whether to launch now. Whoever calls `note` has the team for himself."""

    def __init__(self) -> None:
        self.late = 0  # launches, so far
        self._until = self._pause = 0.0
        self._in_time = 0

    def alone_for(self) -> float:
        """Seconds for which calls still compute alone."""
        return max(0.0, self._until - perf_counter()) if self._until else 0.0

    def rests(self) -> bool:
        """Whether calls compute alone now."""
        return bool(self._until) and perf_counter() < self._until

    def note(self, kind: Kind, seconds: float) -> None:
        """How long a launch took."""
        if kind.late(seconds):
            self.late += 1
            self._pause, self._in_time = min(MOST, GROWTH * self._pause or FIRST), 0
            self._until = perf_counter() + self._pause
        elif self._pause:
            self._in_time += 1
            if self._in_time >= IN_TIME:
                self._pause = self._until = 0.0
