"""The benchmarks: the floor moves the data it says it moves."""

import numpy as np
import pytest
from data import normals

from benchmarks import floor
from benchmarks.cases import Case, Data
from benchmarks.sweeps import sweep


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_sweeps_read_and_write_every_value(dtype, threads, stream):
    for n in (0, 1, 15, 16, 1000, 4099):
        x, dy = normals((2, n), dtype)
        for start in (0, 1, 7, 16):  # outputs that begin anywhere in a line of memory
            room = np.full(n + 32, 7, dtype)
            out = room[start : start + n]
            _, sums = sweep(threads, [x], out, read=True, stream=stream)
            np.testing.assert_array_equal(out, x)
            np.testing.assert_allclose(sums.sum(), x.sum(), atol=1e-2)
            _, sums = sweep(threads, [x, dy], out, read=True, stream=stream)
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
