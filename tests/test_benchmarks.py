"""The benchmarks: the floor moves its data, libraries compute the same, tables hide nothing."""

import numpy as np
import pytest
from data import normals

from benchmarks import floor, report, tables
from benchmarks.cases import CASES, Case, Data
from benchmarks.libraries import OPERATIONS, installed
from benchmarks.measure import Times
from benchmarks.sweeps import sweep
from benchmarks.timing import Job, Result, check, checked

OTHERS = [name for name in installed() if name in ("NumPy", "PyTorch")]  # nothing to compile


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("places", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_sweeps_read_and_write_every_value(dtype, threads, places, stream):
    for n in (0, 1, 15, 16, 1000, 4099):
        x, dy = normals((2, n), dtype)
        for start in (0, 1, 7, 16):  # outputs that begin anywhere in a line of memory
            room = np.full(n + 32, 7, dtype)
            out = room[start : start + n]
            _, sums = sweep(threads, [x], out, True, places, stream)
            np.testing.assert_array_equal(out, x)
            np.testing.assert_allclose(sums.sum(), x.sum(), atol=1e-2)
            _, sums = sweep(threads, [x, dy], out, True, places, stream)
            np.testing.assert_array_equal(out, x + dy)
            np.testing.assert_allclose(sums.sum(), (x + dy).sum(), atol=1e-2)
            assert (room[:start] == 7).all()
            assert (room[start + n :] == 7).all()


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


def results(*times):
    jobs = [Job("forward", False, "channels_first", "float32", case) for case in list(CASES)]
    return [Result(job, t, []) for job, t in zip(jobs, times, strict=False)]


def times(fastbn, torch, floor):
    """Minima; medians are twice as long."""
    found = {"fastbn": fastbn, "PyTorch": torch, "one pass": floor}
    return {name: Times(t * 1e-6, 2e-6 * t) for name, t in found.items() if t}


def test_losses_are_reported_like_wins():
    table = report.Table(results(times(10, 40, 5), times(20, 10, 5), None), "median")
    assert table.headings == ["case", "fastbn", "PyTorch", "to PyTorch", "of one pass"]
    cells = [row[1:] for row in table.cases()]
    assert cells[0] == ["20.0", "80.0", "4.00x", "2.00x"]
    assert cells[1] == ["40.0", "20.0", "0.50x", "4.00x"]
    assert cells[2] == ["noisy"] * 4
    summary = {row[0]: row[3:] for row in table.summary()}
    assert summary["resnet50: geometric mean"] == ["1.41x", "2.83x"]
    assert summary["all: worst"] == ["0.50x", "4.00x"]


def test_a_library_that_fails_leaves_a_gap():
    table = report.Table(results(times(10, 40, 5), times(20, None, 5)), "least")
    assert [row[2:4] for row in table.cases()] == [["40.0", "4.00x"], ["-", "-"]]
    assert next(table.summary())[3:] == ["4.00x", "2.83x"]


def test_results_survive_a_file(tmp_path):
    found = results(times(10, 40, 5), None)
    report.save(tmp_path / "run.json", found, "caption")
    assert report.load(tmp_path / "run.json") == (found, "caption")


def test_only_what_is_between_the_marks_is_replaced(tmp_path):
    file = tmp_path / "README.md"
    file.write_text("a\n<!-- compare -->\nold\n<!-- /compare -->\nb\n")
    tables.replace(file, "compare", "new\ntable")
    assert file.read_text() == "a\n<!-- compare -->\nnew\ntable\n<!-- /compare -->\nb\n"
    with pytest.raises(ValueError, match="should have the lines <!-- other -->"):
        tables.replace(file, "other", "")


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
