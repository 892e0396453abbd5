"""One SHA-256 for everything, at any number of threads, on any threading layer, in any process."""

import digest
import pytest
from process import each_layer, environment, run_python

SCRIPT = """
import digest
import fastbn

for threads in {threads}:
    fastbn.set_num_threads(threads)
    print(digest.total(digest.digests(digest.CASES)))
print(digest.total(digest.digests(digest.LARGE)))
"""
MANY = (1, 2, 16, 64, 3)


def totals(threads, **environment):
    """A SHA-256 of all cases at each number of threads, then one of the large ones at the last."""
    return run_python(SCRIPT.format(threads=threads), NUMBA_NUM_THREADS="64", **environment).split()


@pytest.fixture(scope="module")
def first():
    """What the first process got with one thread."""
    return totals((1,))


@each_layer
def test_one_digest(first, layer):
    one, large = first
    assert totals(MANY, **environment(layer)) == [one] * len(MANY) + [large]


def test_one_value_changes_the_digest(monkeypatch):
    plain = digest.digest("reversed")
    monkeypatch.setitem(digest.LAYOUTS, "reversed", lambda x: x + (x == x.max()))
    assert digest.digest("reversed") != plain


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
