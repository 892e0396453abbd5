"""The kernels as plain Python: the same results, and an index out of bounds is an error there."""

from process import run_python

CODE = """
import numba
assert numba.config.DISABLE_JIT
import numpy as np
import reference
from data import problem
import fastbn

SHAPES = (3, 2, 40), (9, 2, 17), (2, 3, 130), (20, 3), (3, 5, 4), (70, 2, 2), (2, 1100), (1, 1, 7)

for dtype in (np.float32, np.float64):
    for shape in SHAPES:
        x, dy, weight, bias = problem(shape, dtype)
        x[0, 0] += 1000  # an outlier in first place
        y, saved = fastbn.forward(x, weight, bias)
        tolerance = 64 * np.finfo(dtype).eps * 40
        np.testing.assert_allclose(y, reference.forward(x, weight, bias), 0, tolerance)
        for mine, truth in zip(
            fastbn.backward(dy, saved)[:3], reference.backward(dy, x, weight), strict=True
        ):
            np.testing.assert_allclose(mine, truth, 0, tolerance * 10)
        fixed, kept = fastbn.forward(x, weight, bias, stats=saved.stats)
        np.testing.assert_array_equal(fixed, y)
        assert fastbn.backward(dy, kept).dx.shape == x.shape
print("done")
"""


def test_without_compilation():
    assert run_python(CODE, NUMBA_DISABLE_JIT="1") == "done\n"
