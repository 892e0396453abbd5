"""The regret of a choice: found on some rounds, judged by others."""

import numpy as np
import pytest

from benchmarks import regret
from fastbn._arrays import layout
from fastbn._kernels import schedule


def test_regret_of_the_best_choice_is_one():
    times = np.tile([1.0, 1.0, 2.0], (8, 1))
    assert regret.regret(times) == (1.0, [0, 0])


def test_regret_of_a_bad_choice():
    times = np.tile([3.0, 2.0, 4.0], (8, 1))
    ratio, best = regret.regret(times)
    assert ratio == pytest.approx(1.5)
    assert best == [1, 1]


def test_a_lucky_round_is_no_regret():
    times = np.ones((8, 2))
    times[::2, 1] = 0.5  # the second walk is faster in one half of the rounds only
    ratio, _ = regret.regret(times)
    assert ratio <= 1.0


def test_every_walk_is_timed():
    passes, plan = regret.calls((8, 64, 14, 14), False, True)
    chosen = regret.walks(plan, 1, 2)
    assert len(chosen) == 9
    for make, inputs in passes.values():
        taken = []

        def spy(plan, *arguments, taken=taken):
            taken.append(arguments)
            return schedule.Walk(0, False)

        with layout.force_walks(spy):
            make()()
        assert inputs in [arguments[0] for arguments in taken]
        found = regret.times(make, list(chosen.values()), 2)
        assert found is None or (found.shape == (2, 9) and np.all(found > 0))
