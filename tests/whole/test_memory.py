"""No array of x's size is allocated beyond the output."""

import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from data import DTYPES, channels_last, problem
from process import run_python

import fastbn
from fastbn._arrays import layout
from fastbn._kernels import abi

SMALL = 640 * 1024  # vectors of C numbers, partial sums, Python objects: 1/16 of the smallest x
# shape, channel axis, memory: 2 to 3 million values, 9 to 26 MB
CASES = {
    "NCHW": ((16, 64, 50, 50), 1, np.ascontiguousarray),
    "NCHW, short rows": ((1000, 50, 7, 7), 1, np.ascontiguousarray),
    "NHWC": ((16, 50, 50, 64), -1, np.ascontiguousarray),
    "NHWC as a view": ((16, 64, 50, 50), 1, channels_last),
    "N D": ((20_000, 128), 1, np.ascontiguousarray),
}


def allocated(call):
    """(result, bytes allocated at the peak, bytes still held) of a call, by NumPy and Python."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        result = call()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return result, peak - before, held - before


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_peak_is_the_output(case, dtype):
    shape, axis, memory = CASES[case]
    x, dy, weight, bias = problem(shape, dtype, channel_axis=axis)
    x, dy = memory(x), memory(dy)
    out = np.empty_like(x)
    parameters = {"weight": weight, "bias": bias, "channel_axis": axis}
    _, saved = fastbn.forward(x, **parameters, out=out)  # compiles
    fastbn.backward(dy, saved, out=out)

    def peak(call):
        return allocated(call)[1]

    assert peak(lambda: fastbn.forward(x, **parameters, out=out)) <= SMALL
    assert peak(lambda: fastbn.forward(x, **parameters)) <= x.nbytes + SMALL
    assert peak(lambda: fastbn.normalize(x, saved.stats, **parameters)) <= x.nbytes + SMALL
    assert peak(lambda: fastbn.normalize(x, saved.stats, **parameters, out=out)) <= SMALL
    assert (
        peak(lambda: fastbn.batch_norm(x, None, None, training=True, **parameters, out=out))
        <= SMALL
    )
    assert peak(lambda: fastbn.batch_stats(x, channel_axis=axis)) <= SMALL
    assert peak(lambda: fastbn.backward(dy, saved)) <= x.nbytes + SMALL
    assert peak(lambda: fastbn.backward(dy, saved, out=out)) <= SMALL
    assert peak(lambda: fastbn.backward(dy, saved, needs=(False, True, True))) <= SMALL


def test_saved_holds_references_and_vectors_only():
    x, _, weight, bias = problem((64, 64, 20, 20), np.float32)
    fastbn.forward(x, weight, bias)  # compiles
    (y, saved), _, held = allocated(lambda: fastbn.forward(x, weight, bias))
    assert held <= y.nbytes + 16 * 1024
    assert saved.stats.count == 64 * 400  # and is alive while `held` is read


def test_tracemalloc_sees_a_copy():
    x = np.zeros((1000, 1000))
    assert allocated(x.copy)[1] >= x.nbytes


# Memory that kernels allocate themselves is invisible to tracemalloc: ask the system.
RESIDENT = """
from pathlib import Path
import numpy as np
import fastbn

def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

def touch(shape):
    return np.ones(shape, np.float32)

fastbn.set_num_threads(2)
for shape, axis in (((8, 64, 50, 50), 1), ((8, 50, 50, 64), -1), ((200, 200, 7, 7), 1)):
    small = touch(shape)
    _, saved = fastbn.forward(small, channel_axis=axis)
    fastbn.backward(small, saved)  # everything is compiled, every thread has started

for shape, axis in (((64, 128, 56, 56), 1), ((64, 56, 56, 128), -1), ((1000, 500, 7, 7), 1)):
    x, out = touch(shape), touch(shape)  # 98 MB each
    before = peak()
    _, saved = fastbn.forward(x, channel_axis=axis, out=out)
    fastbn.backward(x, saved, out=out)
    print(peak() - before)
    del x, out, saved
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_kernels_allocate_nothing_large():
    growth = list(map(int, run_python(RESIDENT).split()))
    assert len(growth) == 3
    assert max(growth) <= 16 * 2**20


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


def test_threads_that_keep_workspaces_at_once_do_no_harm(monkeypatch):
    monkeypatch.setattr(abi, "SPARES", 3)
    wrong = []

    def many(first):
        try:
            for i in range(300):
                work(40 + (first + i) % 7, 2)
        except Exception as error:
            wrong.append(error)

    workers = [threading.Thread(target=many, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert len(abi._kept) <= 3
