"""The benchmarks: the floor moves its data, libraries compute the same, noise is noticed."""

from time import sleep

import numba
import numpy as np
import pytest
from data import normals

from benchmarks import floor, measure
from benchmarks.cases import CASES, Case, Data
from benchmarks.copies import copy
from benchmarks.libraries import OPERATIONS, installed
from benchmarks.timing import Job, check, checked

OTHERS = [name for name in installed() if name in ("NumPy", "PyTorch")]  # nothing to compile


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("places", [False, True])
@pytest.mark.parametrize("nontemporal", [False, True])
def test_copies_read_and_write_every_value(dtype, threads, places, nontemporal):
    before = numba.get_num_threads()
    for n in (0, 1, 15, 16, 1000, 4099):
        x, dy = normals((2, n), dtype)
        for start in (0, 1, 7, 16):  # outputs that begin anywhere in a line of memory
            room = np.full(n + 32, 7, dtype)
            out = room[start : start + n]
            _, sums = copy(threads, [x], out, True, places, nontemporal)
            np.testing.assert_array_equal(out, x)
            np.testing.assert_allclose(sums.sum(), x.sum(), atol=1e-2)
            _, sums = copy(threads, [x, dy], out, True, places, nontemporal)
            np.testing.assert_array_equal(out, x + dy)
            np.testing.assert_allclose(sums.sum(), (x + dy).sum(), atol=1e-2)
            assert (room[:start] == 7).all()
            assert (room[start + n :] == 7).all()
    assert numba.get_num_threads() == before


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("given", [False, True])
def test_floors_move_the_data_of_an_operation(layout, given):
    d = Data(Case("test", (3, 5, 7, 2)), layout)
    expected = {"forward": d.x, "evaluation": d.x, "backward": d.x + d.dy}
    for operation, values in expected.items():
        calls = floor.calls(operation, d, given)
        assert list(calls) == list(floor.NAMES)[: 1 if operation == "evaluation" else 2]
        for name, variants in calls.items():
            for call in variants:
                out, sums = call()
                np.testing.assert_array_equal(out, values.ravel("K"))
                assert (call()[0] is out) == given
                assert sums.any() == (name == "two passes")
    for call in floor.calls("statistics", d)["one pass"]:
        out, sums = call()
        assert out is None
        np.testing.assert_allclose(sums.sum(), d.x.sum(), rtol=1e-4)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_library_computes_every_operation(operation):
    """Against float64, which `checked` sees to; into given outputs, too."""
    for case in CASES.values():
        if case.group == "small":
            for layout in case.layouts:
                for given in (False, True)[: 1 if operation == "statistics" else 2]:
                    job = Job(operation, given, layout, "float32", case.name)
                    calls, notes = checked(job, Data(case, layout), ["fastbn", *OTHERS])
                    assert len(calls) >= (1 if given else 2)
                    assert not notes


def test_a_wrong_result_is_not_timed():
    job = Job("forward", False, "channels_first", "float32", "small-8x16")
    with pytest.raises(AssertionError, match="small-8x16, channels_first: NumPy is off by"):
        check("NumPy", [np.array([1.0, 2.1])], [np.array([1.0, 2.0])], job)


def test_the_best_of_several_calls_under_one_name_counts():
    def after(seconds):
        return lambda: sleep(seconds)

    times = measure.in_turn({"one": [after(0.001)], "two": [after(0.02), after(0.001)]}, 0, 1)
    assert times["two"].least < 0.01
    assert times["two"].median < 0.01


def test_a_noisy_attempt_is_repeated(monkeypatch):
    """Clock, this process and all processes: others take all of one CPU, then nothing."""
    readings = iter([(0, 0, 0), (1, 0, 1e3), (2, 0, 1e3), (3, 1, 1e3 + 1)])
    monkeypatch.setattr(measure, "busy", lambda: next(readings))
    attempts = iter("ab")
    assert measure.quietly(lambda: next(attempts)) == "b"
    readings = iter([(0, 0, 0), (1, 0, 1e3)] * 5)
    assert measure.quietly(lambda: "noisy") is None
