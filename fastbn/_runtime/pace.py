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
# Seconds alone after a late launch, so many times as many after each of the next ones, and at most;
# after so many launches in time all is forgotten. The first are short, for any machine has hiccups;
# a second is long enough for late launches to be rare among calls of a millisecond, and short
# enough to notice that the others are gone.
FIRST, GROWTH, MOST, IN_TIME = 0.005, 4.0, 1.0, 64


class Kind:
    """Calls that do one and the same: how long they took, at best, alone and in a team."""

    __slots__ = ("_alone", "_least", "_nbytes")

    def __init__(self, nbytes: int):
        self._nbytes, self._alone, self._least = nbytes, math.inf, math.inf

    def alone(self, seconds: float) -> None:
        """How long one thread took."""
        self._alone = min(self._alone, seconds)

    def late(self, seconds: float) -> bool:
        """Whether a launch that took so long was late."""
        if self._least <= seconds < DELAY:  # most launches
            return False
        first, alone = self._least == math.inf, self._alone
        limit = DELAY + min(alone if alone < math.inf else BYTE * self._nbytes, TIMES * self._least)
        self._least = min(self._least, seconds)
        return seconds > limit and not first


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
