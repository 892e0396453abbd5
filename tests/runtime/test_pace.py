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


def test_what_is_late():
    kind = pace.Kind(800_000)
    assert not kind.late(1.0)  # the first faults pages, and may have compiled
    assert not kind.late(0.0006)  # DELAY, and BYTE for each byte
    assert kind.late(0.001)
    assert not kind.late(0.0001)
    assert not kind.late(0.0004)
    assert kind.late(0.00061 + 4 * 0.0001)


def test_a_slow_machine_is_not_late_for_ever():
    """Where memory is slow a team takes longer than BYTE says, but not longer than one thread."""
    kind = pace.Kind(800_000)
    assert not kind.late(0.01)
    assert kind.late(0.01)
    kind.alone(0.018)
    assert not kind.late(0.01)
    assert kind.late(0.02)


def known():
    """Launches of a kind that was seen before."""
    kind = pace.Kind(1)
    kind.late(0.0)
    return kind


def test_alone_for_longer_each_time_and_no_longer_than_a_second(clock):
    here, kind, rests = pace.Pace(), known(), []
    for _ in range(8):
        here.note(kind, 1.0)
        rests.append(here.alone_for())
        assert here.rests()
        clock[0] += rests[-1] + 1e-9
        assert not here.rests()
    assert rests[0] == pytest.approx(pace.FIRST)
    assert rests == sorted(rests)
    assert rests[-1] == pytest.approx(pace.MOST)
    assert here.late == 8


def test_launches_in_time_are_trusted_again(clock):
    here, kind = pace.Pace(), known()
    for _ in range(4):
        here.note(kind, 1.0)
        clock[0] += 2
    for _ in range(pace.IN_TIME):
        here.note(kind, 0.0)
    here.note(kind, 1.0)
    assert here.alone_for() == pytest.approx(pace.FIRST)


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
