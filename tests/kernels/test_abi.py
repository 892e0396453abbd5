"""Workspaces: what a pass has room in, kept for the next call, few and small enough in all."""

import threading
import time
from collections import OrderedDict

import numpy as np
import pytest
from process import run_python

from fastbn._arrays import layout
from fastbn._kernels import abi

THREADS = (1, 2, 16, 64)


def pool(rows):
    """The workspaces of a shape whose sums take several hundred KB."""
    return layout.see(np.ones((rows, 5000), np.float32), 1)[1].plan.pool


def work(rows, threads):
    """What a call on so many threads does with its workspace."""
    pool(rows).give(pool(rows).take(threads))


@pytest.fixture
def nothing_kept():
    """No workspace is kept before the test, and none after it."""

    def forget():
        while abi._kept:
            abi._kept.popitem()[0]._spare.clear()

    forget()
    yield
    forget()


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize("threads", THREADS)
def test_few_large_workspaces_are_kept(monkeypatch, threads):
    monkeypatch.setattr(abi, "SPARES", 2)
    for rows in (40, 41, 42, 40):
        work(rows, threads)
    assert list(abi._kept) == [pool(42), pool(40)]  # the latest is last
    assert [len(pool(rows)._spare) for rows in (40, 41, 42)] == [1, 0, 1]


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize("threads", THREADS)
def test_what_is_kept_has_a_limit_in_bytes(monkeypatch, threads):
    work(40, threads)
    monkeypatch.setattr(abi, "KEPT_BYTES", 2 * sum(abi._kept.values()) + 1000)
    for rows in (41, 42):
        work(rows, threads)
    assert list(abi._kept) == [pool(41), pool(42)]


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize("threads", THREADS)
def test_a_workspace_is_used_again_whatever_the_number_of_threads(threads):
    first = pool(40).take(threads)
    pool(40).give(first)
    assert pool(40).take(threads) is first
    pool(40).give(first)
    assert pool(40).take(1) is first
    pool(40).give(first)
    assert pool(40).take(threads + 1) is not first  # too small


def test_a_workspace_beyond_the_limit_is_not_kept():
    large = layout.see(np.ones((40, 50_000), np.float32), 1)[1].plan.pool
    large.give(large.take(1))
    assert not large._spare


MANY = """
import numpy as np
import fastbn
from fastbn._arrays import layout
from fastbn._kernels import abi

x = np.ones((40, 5000), np.float32)
x[::2] = 3
pool = layout.see(x, 1)[1].plan.pool
for threads in (1, 2, 16, 64):
    fastbn.set_num_threads(threads)
    y, saved = fastbn.forward(x, eps=0.0)
    assert saved.stats.count == 40 and set(np.unique(y)) == {-1, 1}
    assert pool in abi._kept and pool._spare[0].threads == threads
print("done")
"""


def test_workspaces_are_kept_on_many_cores():
    assert run_python(MANY, NUMBA_NUM_THREADS="64") == "done\n"


class Slow(OrderedDict):
    """Lets other threads in, between a look at what it has and a change."""

    def __len__(self):
        size = super().__len__()
        time.sleep(1e-5)
        return size


@pytest.mark.usefixtures("nothing_kept")
def test_threads_that_keep_workspaces_at_once_do_no_harm(monkeypatch):
    monkeypatch.setattr(abi, "SPARES", 0)  # what one keeps, the next drops
    monkeypatch.setattr(abi, "_kept", Slow())
    pools, wrong = [pool(rows) for rows in range(40, 47)], []

    def many(first):
        try:
            for i in range(100):
                abi._keep(pools[(first + i) % 7], 1)
        except Exception as error:
            wrong.append(error)

    workers = [threading.Thread(target=many, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert not abi._kept
