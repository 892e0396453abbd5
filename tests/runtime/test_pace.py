"""Launches that come late have calls compute alone for a while, with the same bits."""

import pytest
from process import each_layer, environment, run_python

from fastbn._runtime import pace


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only as the test says."""
    now = [100.0]
    monkeypatch.setattr(pace, "perf_counter", lambda: now[0])
    return now


def late(kind, seconds):
    """Whether a launch was late."""
    return kind.saved(seconds) < 0


def test_what_is_late():
    kind = pace.Kind(800_000)
    assert not late(kind, 1.0)  # the first faults pages, and may have compiled
    assert not late(kind, 0.0006)  # DELAY, and BYTE for each byte
    assert not late(kind, 0.0001)
    assert not late(kind, 0.0004)
    assert late(kind, 0.00061 + 4 * 0.0001)


def test_a_slow_machine_is_not_late_for_ever():
    """Where memory is slow a team takes longer than BYTE says, but not longer than one thread."""
    kind = pace.Kind(800_000)
    for seconds in (0.01, 0.01, 0.021):
        kind.saved(seconds)
    kind.alone(0.018)
    assert not late(kind, 0.01)
    assert late(kind, 0.02)


def test_what_a_launch_saves():
    kind = pace.Kind(80_000_000)
    assert kind.saved(0.002) == 0
    assert kind.saved(0.001) == pytest.approx(0.003)  # as if one thread took twice the best
    kind.alone(0.0015)
    assert kind.saved(0.001) == pytest.approx(0.0005)
    assert kind.saved(0.0019) == 0
    assert kind.saved(0.0115) == pytest.approx(-0.01)


def known():
    """Launches of a kind that was seen before, and take a millisecond, alone two."""
    kind = pace.Kind(1)
    kind.saved(0.001)
    kind.alone(0.002)
    return kind


def test_alone_for_longer_each_time_and_no_longer_than_a_second(clock):
    here, kind, rests = pace.Pace(), known(), []
    for _ in range(6):
        here.note(kind, 1.0)
        rests.append(here.alone_for())
        assert here.rests()
        clock[0] += rests[-1] + 1e-9
        assert not here.rests()
    assert rests[0] == pytest.approx(pace.FIRST)
    assert rests == sorted(rests)
    assert rests[-1] == pytest.approx(pace.MOST)
    assert here.late == 6


def test_launches_that_save_enough_are_trusted_again(clock):
    here, kind = pace.Pace(), known()
    for _ in range(4):
        here.note(kind, 1.0)
        clock[0] += 2
    for _ in range(9):
        here.note(kind, 0.001)
    here.note(kind, 1.0)
    assert here.alone_for() == pytest.approx(pace.FIRST)


@pytest.mark.usefixtures("clock")
def test_a_hiccup_is_paid_for_by_what_was_saved():
    here, kind = pace.Pace(), known()
    for _ in range(9):
        here.note(kind, 0.001)
    here.note(kind, 0.009)
    assert here.late == 1
    assert not here.rests()
    here.note(kind, 0.009)
    assert here.rests()


LATE = """
import time
import numpy as np
import fastbn
from fastbn._runtime import pace, threads

fastbn.set_num_threads(2)
x = np.random.default_rng(0).standard_normal((64, 32, 10, 10), np.float32)
for _ in range(2):  # starts the team, and compiles; then this kind is seen
    expected, _ = fastbn.forward(x)
threads.pace, launched, launch = pace.Pace(), [], threads._launch

def late(parallel, team, args):
    launched.append(team)
    launch(parallel, team, args)
    time.sleep(0.05)

threads._launch, pace.FIRST, pace.MOST = late, 60.0, 60.0
for _ in range(5):
    assert np.array_equal(fastbn.forward(x)[0], expected)
found = fastbn.config_info()
print(launched, found["late_launches"], 0 < found["alone_for"] <= 60)
"""


@each_layer
def test_calls_after_a_late_launch_compute_alone(layer):
    settings = environment(layer)
    assert run_python(LATE, NUMBA_NUM_THREADS="2", **settings) == "[2] 1 True\n"
