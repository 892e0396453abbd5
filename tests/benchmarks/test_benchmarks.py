"""The benchmarks: the floor moves its data, libraries compute the same, noise is noticed."""

from time import sleep

import numba
import numpy as np
import pytest
from data import normals

from benchmarks import floor, measure
from benchmarks.cases import CASES, HALVES, Case, Data, missing
from benchmarks.copies import copy
from benchmarks.libraries import MODULES, OPERATIONS, STEPS, installed, prepared
from benchmarks.timing import KINK, Job, check, checked, spare_kinks

OTHERS = [name for name in installed() if name in ("NumPy", "PyTorch")]  # nothing to compile
NO_OUT = ("statistics", *STEPS, *MODULES)


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
                ((out, sums),) = call()
                np.testing.assert_array_equal(out, values.ravel("K"))
                assert (call()[0][0] is out) == given
                assert sums.any() == (name == "two passes")
    for call in floor.calls("statistics", d)["one pass"]:
        ((out, sums),) = call()
        assert out is None
        np.testing.assert_allclose(sums.sum(), d.x.sum(), rtol=1e-4)


def test_the_floor_of_a_step_is_that_of_its_passes():
    d = Data(Case("test", (3, 5, 7, 2)))
    for operation in STEPS:
        residual = operation == "step_residual_relu"
        moved = [d.x + d.residual if residual else d.x, d.x + d.dy]
        moved += [d.residual] if residual else []
        for call in floor.calls(operation, d)["one pass"]:
            outs = [out for out, _ in call()]
            np.testing.assert_array_equal(outs, [values.ravel() for values in moved])


@pytest.mark.parametrize("dtype", HALVES)
def test_floors_move_halves_two_by_two(dtype):
    if missing(dtype):
        pytest.skip(f"{dtype} needs a package")
    d = Data(Case("test", (3, 5, 7, 2)), "channels_last", dtype)
    for call in floor.calls("forward", d)["one pass"]:
        ((out, _),) = call()
        np.testing.assert_array_equal(out.view(d.dtype), d.x.ravel("K"))


@pytest.mark.parametrize("operation", [*OPERATIONS, *MODULES])
@pytest.mark.parametrize("dtype", ["float32", *HALVES])
def test_every_library_computes_every_operation(operation, dtype):
    """Against float64, which `checked` sees to; into given outputs, too."""
    if missing(dtype):
        pytest.skip(f"{dtype} needs a package")
    if operation in MODULES and "PyTorch" not in OTHERS:
        pytest.skip("modules are PyTorch's")
    for case in CASES.values():
        if case.group == "small":
            for layout in case.layouts:
                for given in (False, True)[: 1 if operation in NO_OUT else 2]:
                    job = Job(operation, given, layout, dtype, case.name)
                    calls, notes = checked(job, Data(case, layout, dtype), ["fastbn", *OTHERS])
                    able = [k for k in OTHERS if k != "NumPy" or not (given or dtype in HALVES)]
                    assert list(calls) == ["fastbn", *able]
                    assert not notes


@pytest.mark.parametrize("operation", [name for name in STEPS if "relu" in name])
def test_no_gradient_arrives_where_a_rounding_would_decide(operation):
    d = Data(Case("test", (3, 5, 7, 2)))
    before = d.dy.copy()
    y, _, _, dbias, *_ = prepared("NumPy", operation, d)()
    spare_kinks(operation, d)
    spared = d.dy == 0
    assert 0 < spared.sum() < d.dy.size / 5
    assert (y[spared] < KINK).all()
    assert ((y >= KINK) | (y == 0) | spared).all()
    np.testing.assert_array_equal(d.dy[~spared], before[~spared])
    assert not np.array_equal(prepared("NumPy", operation, d)()[3], dbias)


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
