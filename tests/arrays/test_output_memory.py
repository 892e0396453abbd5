"""Large outputs lie in memory that is kept for the next one, and never in that of a live one."""

import copy
import mmap
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastbn
from fastbn._arrays import memory

SIZE = memory.MINIMUM + 12345
KEEPS = hasattr(mmap, "MADV_FREE") and hasattr(mmap, "MADV_HUGEPAGE")
pytestmark = pytest.mark.skipif(not KEEPS, reason="the system cannot take memory back")


@pytest.fixture(autouse=True)
def empty_pool(monkeypatch):
    monkeypatch.setattr(memory, "_free", {})


def address(array):
    return array.__array_interface__["data"][0]


def test_dropped_memory_is_used_again():
    first = memory.empty(SIZE)
    place = address(first)
    view = first[100:200]
    view[...] = 7
    del first
    other = memory.empty(SIZE)
    other[...] = 1
    assert address(other) != place  # a view is alive
    assert np.all(view == 7)
    del view
    assert address(memory.empty(SIZE)) == place


def test_sizes_do_not_mix():
    memory.empty(SIZE)
    larger = memory.empty(2 * SIZE)
    larger[...] = 1
    assert larger.size >= 2 * SIZE


def test_no_more_than_the_limit_is_kept(monkeypatch):
    monkeypatch.setattr(memory, "KEEP", 1 << 40)
    memory.empty(SIZE)
    assert not memory._free


def test_small_outputs_do_not_need_it():
    assert memory.empty(memory.MINIMUM - 1) is None


def test_forward_without_it(monkeypatch):
    x = np.random.default_rng(0).normal(size=(150_000, 64)).astype(np.float32)
    kept = fastbn.forward(x)[0]
    assert isinstance(kept.base, np.ndarray | memory._Block)
    monkeypatch.delattr(mmap, "MADV_FREE")
    np.testing.assert_array_equal(fastbn.forward(x)[0], kept)


def test_copies_stand_alone():
    x = np.random.default_rng(0).normal(size=(150_000, 64)).astype(np.float32)
    y = fastbn.forward(x)[0]
    expected = y.sum(dtype=float)
    copies = copy.deepcopy(y), pickle.loads(pickle.dumps(y))
    y[...] = 0
    del y
    fastbn.forward(2 * x)
    for one in copies:
        assert one.sum(dtype=float) == expected


def test_threads_get_memory_of_their_own():
    def fill(k):
        mine = memory.empty(SIZE)
        mine[...] = k
        return bool(np.all(mine == k))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(fill, range(16)))
