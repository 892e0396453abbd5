"""One SHA-256 for everything, at any number of threads, on any threading layer, in any process."""

import pytest
from process import each_layer, environment, run_python

SCRIPT = """
import hashlib
import numpy as np
from data import LAYOUTS, problem
import fastbn

# shape, channel axis, dtype, memory of x
CASES = [
    ((16, 65, 8, 8), 1, "f4", "contiguous"),
    ((16, 65, 8, 8), 1, "f8", "contiguous"),
    ((32, 100, 7, 7), 1, "f4", "contiguous"),
    ((8, 3, 120, 121), 1, "f4", "contiguous"),
    ((1, 1, 300_001), 1, "f8", "contiguous"),
    ((16, 28, 28, 24), -1, "f4", "contiguous"),
    ((16, 24, 28, 28), 1, "f4", "channels_last"),
    ((5003, 64), 1, "f4", "contiguous"),
    ((40, 5001), 1, "f8", "contiguous"),
    ((70_003, 1), 1, "f4", "contiguous"),
    ((16, 24, 28, 28), 1, "f8", "strided"),
    ((16, 24, 28, 28), 1, "f2", "byteswapped"),
    ((3, 11, 16, 17, 18), 1, "i4", "contiguous"),
    ((4, 3, 5, 6), 1, "f4", "reversed"),
]

def digest():
    sha = hashlib.sha256()
    for i, (shape, axis, dtype, memory) in enumerate(CASES):
        x, dy, weight, bias = problem(shape, channel_axis=axis, seed=i, offset=3.0)
        x = LAYOUTS[memory]((4 * x).astype(dtype))
        dy = dy.astype(dtype if dtype[0] == "f" else "f8")
        mean, var = np.zeros(shape[axis]), np.ones(shape[axis])
        y, saved = fastbn.forward(x, weight, bias, channel_axis=axis)
        z = fastbn.batch_norm(x, mean, var, weight, bias, True, channel_axis=axis)
        fixed = fastbn.normalize(x, (mean, var), weight, bias, channel_axis=axis)
        stats = fastbn.batch_stats(x, channel_axis=axis)
        arrays = [y, z, fixed, mean, var, stats.mean, stats.m2, *fastbn.backward(dy, saved)[:3]]
        for a in arrays:
            sha.update(np.ascontiguousarray(a).tobytes())
    return sha.hexdigest()

for threads in (1, 2, 3, 4, 8):
    fastbn.set_num_threads(threads)
    print(digest())
"""


@pytest.fixture(scope="module")
def first():
    """What the first process got with one thread."""
    return run_python(SCRIPT, NUMBA_NUM_THREADS="8").split()[0]


@each_layer
def test_one_digest(first, layer):
    digests = run_python(SCRIPT, NUMBA_NUM_THREADS="8", **environment(layer)).split()
    assert len(first) == 64
    assert digests == [first] * 5


def test_another_seed_has_another_digest(first):
    other = SCRIPT.replace("seed=i", "seed=i + 1").replace("(1, 2, 3, 4, 8)", "(1,)")
    assert run_python(other, NUMBA_NUM_THREADS="8").split() != [first]


BACKWARD = """
import numpy as np
from data import problem
import fastbn

x, dy, weight, bias = problem((5003, 64), np.float32)
results = []
for threads in {threads}:
    fastbn.set_num_threads(threads)
    results.append(fastbn.backward(dy, fastbn.forward(x, weight, bias)[1]))
for a, b in zip(results[0], results[-1]):
    np.testing.assert_array_equal(a, b)
"""


@pytest.mark.slow
def test_kernels_compiled_by_different_processes_agree(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "8"}
    run_python(BACKWARD.format(threads=(1,)), **cache)
    run_python(BACKWARD.format(threads=(2, 1)), **cache)
