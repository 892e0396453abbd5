"""Dropped memory is used again, is never that of a live array, and has a bound."""

import copy
import gc
import itertools
import os
import pickle
import subprocess
import sys
import threading
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from process import needs_fork, python_path, run_python, run_to_end

import fastbn
from fastbn._runtime import memory

MB = 1 << 20
BYTE = np.dtype(np.uint8)
marks = pytest.mark.skipif(not memory._MARKS, reason="the system cannot take memory back")


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    """No block is free before the test; those of others are kept meanwhile."""
    gc.collect()
    for name in ("_warm", "_marked"):
        monkeypatch.setattr(memory, name, defaultdict(deque))
    for name in ("_warm_bytes", "_marked_bytes"):
        monkeypatch.setattr(memory, name, 0)
    monkeypatch.setattr(memory, "_due", 0.0)


def limits(monkeypatch, most, warm=0, hot=0, seconds=0.0):
    """Other bounds, in MB."""
    monkeypatch.setattr(memory, "limit", lambda: most * MB)
    monkeypatch.setattr(memory, "WARM", warm * MB)
    monkeypatch.setattr(memory, "HOT", hot * MB)
    monkeypatch.setattr(memory, "SECONDS", seconds)


def of(size):
    """An array of so many MB."""
    return memory.vector(int(size * MB), BYTE)


def free():
    """MB of the blocks that stay as they are, and of those that are marked as free."""
    found = [
        sum(b.room for q in list(d.values()) for b in q) for d in (memory._warm, memory._marked)
    ]
    assert found == [memory._warm_bytes, memory._marked_bytes]
    return [size / MB for size in found]


@pytest.mark.parametrize("size", [0.125, 0.3, 1, 3, 7, 40])
def test_dropped_memory_is_used_again(size):
    first = of(size)
    place = memory.address(first)
    view = first[100:200]
    view[...] = 7
    del first
    other = of(size)
    other[...] = 1
    assert memory.address(other) != place  # a view is alive
    assert np.all(view == 7)
    del view
    assert memory.address(of(size)) == place


def test_small_arrays_do_not_need_it():
    of(memory.MINIMUM / MB - 1e-6)
    assert free() == [0, 0]
    of(memory.MINIMUM / MB)
    assert free() == [0.125, 0]


def test_rooms_are_an_eighth_larger_at_most():
    sizes = sorted({memory.MINIMUM, *np.geomspace(memory.MINIMUM, 1 << 32, 5000).astype(int)})
    rooms = [memory.room_for(int(size)) for size in sizes]
    assert all(s <= r <= 1.125 * s for s, r in zip(sizes, rooms, strict=True))
    assert all(a <= b for a, b in itertools.pairwise(rooms))
    assert len(set(rooms)) <= 8 * 15 + 1  # of 15 powers of 2
    assert all(room % memory.PAGE == 0 for room in rooms)


@pytest.mark.parametrize("shape", [(70_000,), (300, 70, 5), (3, 2_000_001)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_array_lies_where_it_is_asked_to(shape, dtype):
    for place in (0, 64, 4095 & -np.dtype(dtype).itemsize, 123456 & -8):
        array = memory.empty(shape, np.dtype(dtype), place)
        assert memory.address(array) % 4096 == place % 4096
        assert type(array) is np.ndarray
        assert (array.shape, array.dtype) == (shape, dtype)
        assert array.flags.carray
        array[...] = 3  # all of it is there
        inside = array.base.block
        assert 0 <= memory.address(array) - memory.address(inside.memory) - inside.start < 4096
        assert array.nbytes <= inside.room


@marks
def test_the_oldest_blocks_are_marked_and_then_let_go(monkeypatch):
    limits(monkeypatch, most=16, warm=2, hot=4, seconds=1e9)
    arrays = [of(1) for _ in range(17)]
    places = [memory.address(array) for array in arrays]
    for i in range(17):
        arrays[i] = None
        # As they are within HOT; then the oldest is marked; then the oldest of those is let go.
        assert free() == [min(i + 1, 4), max(0, min(i + 1, 16) - 4)]
    again = [of(1) for _ in range(16)]  # the latest first
    assert [memory.address(array) for array in again] == places[:0:-1]
    assert free() == [0, 0]


@marks
def test_blocks_that_rest_are_marked(monkeypatch):
    limits(monkeypatch, most=100, warm=2, hot=50, seconds=1e9)
    now = [10.0]
    monkeypatch.setattr(memory, "monotonic", lambda: now[0])
    arrays = [of(1) for _ in range(6)]
    del arrays[:5]
    assert free() == [5, 0]
    monkeypatch.setattr(memory, "SECONDS", 5.0)
    monkeypatch.setattr(memory, "_due", 0.0)
    now[0] += 6
    arrays.clear()
    assert free() == [2, 4]  # down to WARM


@marks
def test_the_oldest_is_found_among_all_sizes(monkeypatch):
    limits(monkeypatch, most=100, warm=2, hot=9, seconds=1e9)
    arrays = [of(size) for size in (2, 1, 3, 2, 1.5, 1)]
    for i in range(5):
        arrays[i] = None
    assert free() == [7.5, 2]  # 1, 3, 2, 1.5; and the first 2
    arrays.clear()
    assert free() == [8.5, 2]
    arrays = [of(4)]
    arrays.clear()
    assert free() == [8.5, 6]  # 2, 1.5, 1, 4; and the first 2, 1, 3


def test_what_is_dropped_at_the_last_moment_is_not_forgotten(monkeypatch):
    """Another thread drops a block, and gives up, just before the lock is let go."""

    class Late:
        def __init__(self, lock, block):
            self.lock, self.block = lock, block

        def acquire(self, *blocking):
            return self.lock.acquire(*blocking)

        def release(self):
            if self.block is not None:
                memory._dropped.append(self.block)
                self.block = None
            self.lock.release()

    array = of(1)
    monkeypatch.setattr(memory, "_lock", Late(memory._lock, memory._Block(2 * MB)))
    del array
    assert free() == [3, 0]


@marks
def test_a_block_beyond_the_limit_is_not_kept(monkeypatch):
    limits(monkeypatch, most=3, warm=64)
    kept = of(1), of(4)
    del kept
    assert free()[0] + free()[1] <= 3


def test_without_marks(monkeypatch):
    x = np.random.default_rng(0).normal(size=(150_000, 64)).astype(np.float32)
    expected = fastbn.forward(x)[0]
    assert expected.base is not None
    limits(monkeypatch, most=64, warm=48)
    monkeypatch.setattr(memory, "_MARKS", False)
    monkeypatch.setattr(memory, "_warm", defaultdict(deque))
    monkeypatch.setattr(memory, "_warm_bytes", 0)
    for _ in range(4):
        np.testing.assert_array_equal(fastbn.forward(x)[0], expected)
        assert 0 < sum(free()) <= 48
    assert free()[1] == 0
    place = memory.address(of(5))
    assert memory.address(of(5)) == place


def test_a_system_that_does_not_mark(monkeypatch):
    limits(monkeypatch, most=64, warm=2)
    monkeypatch.setattr(memory._Block, "advise", lambda self, name: False)
    arrays = [of(1) for _ in range(6)]
    arrays.clear()
    assert free() == [2, 0]


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


def test_what_an_array_stands_on_can_be_looked_at():
    array = of(1)
    base = array.base
    place = memory.address(array)
    part = base[10:20]  # has no block of its own
    del part, array
    assert free() == [0, 0]
    assert repr(base)
    del base
    assert memory.address(of(1)) == place


def test_a_cycle_is_dropped_by_the_collector():
    holder = [of(1)]
    holder.append(holder)
    del holder
    assert free() == [0, 0]
    gc.collect()
    assert free() == [1, 0]


def test_who_drops_never_waits():
    """Another thread is at the lists: the drop is put there by the next one that looks."""
    array, done, held = of(1), threading.Event(), threading.Event()

    def hold():
        with memory._lock:
            held.set()
            done.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(60)
    del array
    assert free() == [0, 0]
    done.set()
    other.join()
    of(0.5)
    assert free() == [1.5, 0]


def test_threads_get_memory_of_their_own(monkeypatch):
    limits(monkeypatch, most=6, warm=2, hot=3)
    switch = sys.getswitchinterval()
    sizes = [0.2, 0.3, 0.5, 1, 1.1]

    def fill(k):
        mine = [of(sizes[(k + i) % 5]) for i in range(3)]
        for i, array in enumerate(mine):
            array[...] = (k + i) % 251
        return all(np.all(array == (k + i) % 251) for i, array in enumerate(mine))

    try:
        sys.setswitchinterval(1e-6)
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(fill, range(400)))
    finally:
        sys.setswitchinterval(switch)
    assert 0 < sum(free()) <= 6


@pytest.mark.parametrize("name", ["memory.max", "memory.limit_in_bytes"])
def test_a_control_group_bounds_what_is_kept(monkeypatch, tmp_path, name):
    monkeypatch.setattr(memory, "control_groups", lambda controller: {tmp_path})
    machine = memory.limit.__wrapped__()
    for text, expected in (("max\n", machine), ("80000000\n", 10_000_000)):
        (tmp_path / name).write_text(text)
        assert memory.limit.__wrapped__() == expected


def test_config_info_says_what_is_kept(monkeypatch):
    before = fastbn.config_info()
    array = of(1)
    assert fastbn.config_info()["kept_memory"] == before["kept_memory"]
    del array
    after = fastbn.config_info()
    assert after["kept_memory"] == before["kept_memory"] + MB
    assert 0 < after["kept_memory"] <= after["kept_memory_limit"]
    monkeypatch.setattr(memory, "limit", lambda: 5 * MB)
    assert fastbn.config_info()["kept_memory_limit"] == 5 * MB + memory.WORKSPACES


# As the C library finds it: it keeps larger blocks once one was freed, or is told never to.
HEAPS = {"new": {}, "freed": {"FREED": "1"}, "trim": {"MALLOC_TRIM_THRESHOLD_": "131072"}}
FAULTS = """
import os, resource
import numpy as np
import fastbn
from data import channels_last

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def repeated(call):
    "Page faults a call, of which the result is kept until the next one is there."
    result = None
    for _ in range(5):
        result = call()
    before = faults()
    for _ in range(COUNT):
        result = call()
    return (faults() - before) / COUNT

COUNT = 20
SHAPES = [(256, 1024), (2, 65536), (1, 100003, 8), (32, 64, 14, 14), (3, 41000), (30000, 3),
          (6, 33, 100, 101)]
if "FREED" in os.environ:
    for size in (1 << 20, 31 << 20):
        np.ones(size, np.uint8)
X = [np.ones(shape, np.float32) for shape in SHAPES]
X += [x.astype(dtype) for x in X[:4] for dtype in (np.float64, np.float16, ">f4")]
X += [channels_last(X[3]), X[0][::2], channels_last(X[3])[:, ::2]]
worst, layers = {}, []
for x in X:
    c = x.shape[1]
    mean, var, weight = np.zeros(c, np.float32), np.ones(c, np.float32), np.ones(c)
    saved = fastbn.forward(x, weight)[1]
    layers.append((x, weight))
    calls = {
        "forward": lambda: fastbn.forward(x, weight),
        "backward": lambda: fastbn.backward(x, saved),
        "both": lambda: fastbn.backward(fastbn.forward(x)[0], saved),
        "training": lambda: fastbn.batch_norm(x, mean, var, weight, weight, True),
        "evaluation": lambda: fastbn.batch_norm(x, mean, var),
        "statistics": lambda: fastbn.batch_stats(x),
    }
    for name, call in calls.items():
        worst[f"{name} of {x.shape} {x.dtype}, {x.strides}"] = repeated(call)

def network():
    kept = [fastbn.forward(x, weight) for x, weight in layers]
    while kept:
        fastbn.backward(*kept.pop())

worst["a network"] = repeated(network)
print({name: count for name, count in worst.items() if count > 0.5})
"""


@marks
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts faults as Linux does")
@pytest.mark.parametrize("heap", HEAPS)
def test_repeated_calls_fault_no_pages(heap):
    assert run_python(FAULTS, **HEAPS[heap]) == "{}\n"


BOUND = """
from pathlib import Path
import numpy as np
import fastbn
from fastbn._runtime import memory

def resident():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmRSS:")[1].split()[0])

memory.limit = lambda: 96 << 20
bound = fastbn.config_info()["kept_memory_limit"]
assert bound == memory.limit() + memory.WORKSPACES
rng = np.random.default_rng(0)
x = np.ones(4 << 20, np.float32)
for dtype in (np.float32, np.float64):
    for shape in ((2, 8), (300, 300), (4, 4, 200, 200)):
        fastbn.backward(np.ones(shape, dtype), fastbn.forward(np.ones(shape, dtype))[1])
before, largest, alive = resident(), 0, []
for i in range(10_000):
    size = int(2 ** rng.uniform(4, 22 if i % 50 == 0 else 17))
    channels = int(2 ** rng.uniform(1, min(12, np.log2(size) - 1)))
    part = x[: size // channels * channels].reshape(-1, channels)
    alive.append(fastbn.forward(part))
    if len(alive) > 20 or i % 100 == 99:
        alive.clear()  # many at once
    if i % 100 == 99:
        assert memory.kept() <= bound
        largest = max(largest, resident() - before)
print(largest / bound)
"""


@marks
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_process_grows_no_further_than_the_bound():
    assert 0.2 < float(run_python(BOUND)) < 1.1


FORK = """
import os, threading, time
import numpy as np
import fastbn
from fastbn._runtime import memory

x = np.random.default_rng(0).normal(size=(3000, 100)).astype(np.float32)
expected = fastbn.forward(x)[0].copy()
alive = fastbn.forward(x)[0]
fastbn.forward(x)
stop = threading.Event()

def busy():
    while not stop.is_set():
        memory.vector(100_000)
        with memory._lock:
            time.sleep(1e-3)

threading.Thread(target=busy).start()
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        for _ in range(3):
            if not np.array_equal(fastbn.forward(x)[0], expected):
                os._exit(1)
        alive[...] = 0
        os._exit(0 if memory.kept() > 0 else 2)
    fastbn.forward(2 * x)
    end = time.monotonic() + 60
    while not (found := os.waitpid(pid, os.WNOHANG))[0]:
        assert time.monotonic() < end, "the child hangs"
        time.sleep(1e-3)
    assert found[1] == 0
assert np.array_equal(alive, expected)
stop.set()
"""


@needs_fork
def test_forks():
    run_to_end(FORK)


LAST = """
import numpy as np
import fastbn

x = np.ones((3000, 100), np.float32)
y, saved = fastbn.forward(x)

class Cycle:
    pass

cycle = Cycle()
cycle.me, cycle.y = cycle, fastbn.forward(x)
fastbn.cycle = cycle, fastbn.forward(x)
"""


def test_arrays_may_outlive_the_interpreter():
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", LAST],
        capture_output=True,
        text=True,
        timeout=180,
        env=os.environ | {"PYTHONPATH": python_path()},
    )
    assert (process.returncode, process.stderr) == (0, "")
