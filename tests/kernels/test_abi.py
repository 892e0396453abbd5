"""Workspaces: what a pass has room in, kept for the next call, within a bound in all."""

import threading
import time
from collections import OrderedDict

import numpy as np
import pytest
from process import run_python

from fastbn._arrays import layout
from fastbn._kernels import abi
from fastbn._runtime import memory

THREADS = (1, 2, 16, 64)


def pool(rows, columns=5000):
    """The workspaces of a shape whose sums take several hundred KB."""
    return layout.see(np.ones((rows, columns), np.float32), 1)[1].plan.pool


def work(rows, threads):
    """What a call on so many threads does with its workspace."""
    pool(rows).give(pool(rows).take(threads))


@pytest.fixture(autouse=True)
def nothing_kept():
    """No workspace is kept before the test, and none after it."""

    def forget():
        while memory._kept:
            size, forget_it = memory._kept.popitem()[1]
            memory._kept_bytes -= size
            forget_it()
        assert memory._kept_bytes == 0

    forget()
    yield
    forget()


@pytest.mark.parametrize("threads", THREADS)
def test_what_is_kept_has_a_limit_in_bytes(monkeypatch, threads):
    work(40, threads)
    size = memory._kept_bytes
    assert size == pool(40)._spare[0].nbytes + abi.OVERHEAD
    monkeypatch.setattr(memory, "WORKSPACES", 2 * size + 1000)
    for rows in (41, 42, 41):
        work(rows, threads)
    assert list(memory._kept) == [pool(41), pool(42)]
    assert [len(pool(rows)._spare) for rows in (40, 41, 42)] == [0, 1, 1]
    assert memory._kept_bytes == sum(size for size, _ in memory._kept.values())


@pytest.mark.parametrize("threads", THREADS)
def test_a_workspace_is_used_again_whatever_the_number_of_threads(threads):
    first = pool(40).take(threads)
    pool(40).give(first)
    assert pool(40).take(threads) is first
    pool(40).give(first)
    assert pool(40).take(1) is first
    pool(40).give(first)
    assert pool(40).take(threads + 1) is not first  # too small


def test_of_two_at_once_one_is_kept():
    two = [pool(40).take(1) for _ in range(2)]
    for workspace in two:
        pool(40).give(workspace)
    assert pool(40)._spare == two[:1]


def test_what_may_no_longer_be_kept_is_not_taken_back(monkeypatch):
    workspace = pool(40).take(1)
    monkeypatch.setattr(memory, "WORKSPACES", workspace.nbytes)
    work(41, 1)
    pool(40).give(workspace)
    assert not pool(40)._spare


def test_the_memory_of_a_workspace_beyond_the_limit_is_used_again(monkeypatch):
    monkeypatch.setattr(memory, "WORKSPACES", 1 << 20)
    large = pool(40, 50_000)
    first = large.take(1)
    place = memory.address(first.memory)
    large.give(first)
    assert not large._spare
    assert not memory._kept
    del first
    assert memory.address(large.take(1).memory) == place


MANY = """
import numpy as np
import fastbn
from fastbn._arrays import layout
from fastbn._runtime import memory

x = np.ones((40, 5000), np.float32)
x[::2] = 3
plan = layout.see(x, 1)[1].plan
plan.team, pool = 64, plan.pool
for threads in (1, 2, 16, 64):
    fastbn.set_num_threads(threads)
    y, saved = fastbn.forward(x, eps=0.0)
    assert saved.stats.count == 40 and set(np.unique(y)) == {-1, 1}
    assert pool in memory._kept and pool._spare[0].threads == threads
print("done")
"""


def test_workspaces_are_kept_on_many_cores():
    assert run_python(MANY, NUMBA_NUM_THREADS="64") == "done\n"


class Slow(OrderedDict):
    """Lets other threads in, between a look at what it has and a change."""

    def popitem(self, last=True):
        time.sleep(1e-5)
        return super().popitem(last)


def test_threads_that_keep_workspaces_at_once_do_no_harm(monkeypatch):
    monkeypatch.setattr(memory, "WORKSPACES", 2)
    monkeypatch.setattr(memory, "_kept", Slow())
    monkeypatch.setattr(memory, "_kept_bytes", 0)
    wrong = []

    def many(first):
        try:
            for i in range(100):
                assert memory.keep((first + i) % 7, 1, lambda: None)
        except Exception as error:
            wrong.append(error)

    workers = [threading.Thread(target=many, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert len(memory._kept) == memory._kept_bytes == 2
