"""Launches of a team that come late, and what follows: calls compute alone for a while.

Beside other busy processes, a launch waits for a thread that the scheduler has put aside: 8 ms
instead of 0.1 (two processes that spin on two cores of an AMD EPYC, OpenMP, 2026-11). Whether a
team or one thread computes changes no bit, so whoever has met a late launch need not try again
soon.
"""

import math
from time import perf_counter

# A launch is late that takes so many seconds longer than one thread alone has taken, or than so
# many times the best launch of its kind; of its kind the first is not judged: it faults pages. As
# long as one thread was not seen alone: than so many seconds a byte of inputs and output, which is
# long; where it is not, on slow memory, one thread may be seen next.
DELAY, TIMES, BYTE = 5e-4, 4.0, 2.5e-10
# What launches save against one thread pays for those that are late, up to so many seconds. Where
# that is used up, calls compute alone: for so many seconds, each time so many times as many, and at
# most. Any machine has hiccups, which a team soon pays for; a second is long enough for late
# launches to be rare among calls of a millisecond, and short enough to notice that others are gone.
CREDIT, FIRST, GROWTH, MOST = 0.008, 0.005, 8.0, 1.0


class Kind:
    """Calls that do one and the same: how long they took, at best, alone and in a team."""

    __slots__ = ("_alone", "_least", "_nbytes")

    def __init__(self, nbytes: int):
        self._nbytes, self._alone, self._least = nbytes, math.inf, math.inf

    def alone(self, seconds: float) -> None:
        """How long one thread took."""
        self._alone = min(self._alone, seconds)

    def saved(self, seconds: float) -> float:
        """How much less a launch took than one thread; below 0, how much more if it was late."""
        least, seen = self._least, self._alone < math.inf
        self._least = min(least, seconds)
        if least == math.inf:
            return 0.0
        limit = DELAY + min(self._alone if seen else BYTE * self._nbytes, TIMES * least)
        gain = (self._alone if seen else 2 * least) - seconds
        return min(gain, 0.0) if seconds > limit else max(gain, 0.0)


class Pace:
    """Of a process: whether to launch now. Whoever calls `note` has the team for himself."""

    def __init__(self) -> None:
        self.late = 0  # launches, so far
        self._until = self._pause = self._credit = 0.0

    def alone_for(self) -> float:
        """Seconds for which calls still compute alone."""
        return max(0.0, self._until - perf_counter()) if self._until else 0.0

    def rests(self) -> bool:
        """Whether calls compute alone now."""
        return bool(self._until) and perf_counter() < self._until

    def note(self, kind: Kind, seconds: float) -> None:
        """How long a launch took."""
        saved = kind.saved(seconds)
        self.late += saved < 0.0
        self._credit = min(CREDIT, self._credit + saved)
        if self._credit < 0.0:
            self._pause, self._credit = min(MOST, GROWTH * self._pause or FIRST), 0.0
            self._until = perf_counter() + self._pause
        elif self._credit == CREDIT:
            self._pause = self._until = 0.0
