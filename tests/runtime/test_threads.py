"""Threads, forks and what is known about the process."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import pytest
from data import normals
from process import each_layer, environment, needs_fork, run_python, run_to_end

import fastbn


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize("threads", range(1, 9))
def test_set_and_get(threads):
    fastbn.set_num_threads(threads)
    assert fastbn.get_num_threads() == threads
    fastbn.forward(normals((100, 70, 20)))
    assert fastbn.get_num_threads() == threads


@pytest.mark.usefixtures("keep_threads")
def test_threads_of_one_python_thread():
    fastbn.set_num_threads(2)
    with fastbn.threads(5), ThreadPoolExecutor(1) as pool:
        assert fastbn.get_num_threads() == 5
        assert pool.submit(fastbn.get_num_threads).result() == 2
        assert fastbn.config_info()["threads_from"] == "threads"
        with fastbn.threads(1):
            fastbn.set_num_threads(3)  # for the process, which this block is not concerned with
            assert fastbn.get_num_threads() == 1
            assert pool.submit(fastbn.get_num_threads).result() == 3
        assert fastbn.get_num_threads() == 5
    assert fastbn.get_num_threads() == 3
    assert fastbn.config_info()["threads_from"] == "set_num_threads"


@pytest.mark.usefixtures("keep_threads")
def test_threads_are_as_before_after_an_error():
    fastbn.set_num_threads(2)
    with pytest.raises(KeyError), fastbn.threads(4):
        raise KeyError
    with pytest.raises(ValueError, match="k should be from 1 to 8"), fastbn.threads(9):
        pass
    assert fastbn.get_num_threads() == 2


DEFAULTS = """
from concurrent.futures import ThreadPoolExecutor
import fastbn

most = fastbn.get_num_threads()  # nobody has set a number
for k in (1, 2, 3, 1000):
    with fastbn.threads(k, default=True):
        assert fastbn.get_num_threads() == min(k, most), k
        with ThreadPoolExecutor(1) as pool:  # of this Python thread only
            assert pool.submit(fastbn.get_num_threads).result() == most
        with fastbn.threads(1, default=True):  # the outer one has set a number
            assert fastbn.get_num_threads() == min(k, most), k
        with fastbn.threads(4):
            assert fastbn.get_num_threads() == 4
    assert fastbn.get_num_threads() == most
with fastbn.threads(4), fastbn.threads(1, default=True):
    assert fastbn.get_num_threads() == 4
fastbn.set_num_threads(3)
with fastbn.threads(1, default=True):
    assert fastbn.get_num_threads() == 3
assert fastbn.get_num_threads() == 3
"""


@pytest.mark.parametrize("more", [{}, {"OMP_NUM_THREADS": "1"}], ids=["cores", "one"])
def test_a_default_number_counts_where_nobody_has_set_one(more):
    run_to_end(DEFAULTS, **more)


def test_a_default_number_is_gone_after_an_error():
    before = fastbn.get_num_threads()
    with pytest.raises(KeyError), fastbn.threads(1, default=True):
        raise KeyError
    assert fastbn.get_num_threads() == before


@pytest.mark.parametrize("set_before", [False, True], ids=["unset", "set"])
@pytest.mark.parametrize(
    ("k", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError), (None, TypeError)],
)
def test_a_default_number_is_a_whole_one_from_1_on(k, error, set_before):
    code = f"""
import fastbn
if {set_before}:
    fastbn.set_num_threads(2)
try:
    with fastbn.threads({k!r}, default=True):
        pass
except {error.__name__} as e:
    assert str(e).startswith("k should be"), e
else:
    raise AssertionError("accepted")
"""
    run_to_end(code)


@pytest.mark.usefixtures("keep_threads")
def test_the_users_numba_settings_are_left_alone():
    before = numba.get_num_threads()
    fastbn.set_num_threads(3)
    fastbn.forward(normals((100, 70, 20)))
    assert numba.get_num_threads() == before


# --- in a process of its own: a failure here is a crash or a hang ---------------------------------

PRELUDE = """
import hashlib, os, sys, threading
import multiprocessing as mp
import numpy as np
from data import problem
import fastbn

fastbn.set_num_threads(2)
X = {d: problem((40, 64, 28, 28), d) for d in (np.float32, np.float64)}  # 2 million values

def digest(dtype=np.float32):
    x, dy, weight, bias = X[dtype]
    y, saved = fastbn.forward(x, weight, bias)
    sha = hashlib.sha256(y.tobytes())
    for a in fastbn.backward(dy, saved)[:3]:
        sha.update(a.tobytes())
    return sha.hexdigest()
"""

CONCURRENT = """
expected = {d: digest(d) for d in X}
wrong = []

def work(i):
    dtype = list(X)[i % 2]
    for _ in range(6):
        if digest(dtype) != expected[dtype]:
            wrong.append(i)

threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for t in threads: t.start()
for t in threads: t.join()
assert not wrong, wrong
"""

RUNNING = """
import time
from pathlib import Path

x = X[np.float32][0]
fastbn.set_num_threads(8)
digest()
stop = threading.Event()

def work():
    while not stop.is_set():
        fastbn.batch_stats(x)

def running():
    states = []
    for task in os.listdir("/proc/self/task"):
        try:
            text = Path(f"/proc/self/task/{task}/stat").read_text()
            states.append(text.rsplit(")", 1)[1].split()[0])
        except OSError:
            pass  # it has ended
    return states.count("R")

callers = [threading.Thread(target=work) for _ in range(16)]
for t in callers: t.start()
end, most = time.monotonic() + 3, 0
while time.monotonic() < end:
    most = max(most, running())
stop.set()
for t in callers: t.join()
assert 2 < most <= 16 + 8 + 1, most  # callers, a team, and the thread that looks
"""

FIRST_CALLS = """
results = []
threads = [threading.Thread(target=lambda: results.append(digest())) for _ in range(8)]
for t in threads: t.start()
for t in threads: t.join()
assert results == [digest()] * 8, results
"""

FORK = """
expected = digest()

def generation(depth):
    pid = os.fork()
    if pid == 0:
        ok = digest() == expected
        if ok and depth:
            ok = generation(depth - 1)
        os._exit(0 if ok else 3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

assert generation(1), "the child or the grandchild failed"
assert digest() == expected
"""

FORK_POOL = """
expected = digest()
method = mp.get_start_method(allow_none=True)
with mp.get_context("fork").Pool(3) as pool:
    assert pool.map(digest, [np.float32] * 6) == [expected] * 6
assert digest() == expected
assert mp.get_start_method(allow_none=True) == method
"""

START_METHOD = """
digest()
assert mp.get_start_method(allow_none=True) is None
mp.set_start_method("spawn")
"""

SPAWN = """
if __name__ == "__main__":
    expected = digest()
    with mp.get_context("spawn").Pool(2) as pool:
        assert pool.map(digest, [np.float32] * 2) == [expected] * 2
"""

FORK_IN_THE_MIDDLE = """
expected = digest()
stop = threading.Event()

def work():
    while not stop.is_set():
        digest()

threads = [threading.Thread(target=work) for _ in range(2)]
for t in threads: t.start()
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if digest() == expected else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
stop.set()
for t in threads: t.join()
"""


def run(code, **environment):
    run_to_end(PRELUDE + code, **environment)


def test_eight_python_threads():
    run(CONCURRENT)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc on this system")
@each_layer
def test_sixteen_python_threads_are_no_more_than_sixteen_and_a_team(layer):
    run(RUNNING, **environment(layer))


def test_eight_python_threads_make_their_first_calls():
    run(FIRST_CALLS)


def test_workqueue_layer_with_eight_python_threads():
    run(CONCURRENT, NUMBA_THREADING_LAYER="workqueue")


@needs_fork
def test_forked_child_and_grandchild():
    run(FORK)


@needs_fork
def test_fork_while_other_threads_run():
    run(FORK_IN_THE_MIDDLE)


@needs_fork
def test_fork_pool():
    run(FORK_POOL)


def test_spawn_pool():
    run(SPAWN)


def test_start_method_is_left_open():
    run(START_METHOD)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
@pytest.mark.parametrize(("environment", "limit"), [({}, 8), ({"OMP_NUM_THREADS": "1"}, 1)])
def test_default_is_no_more_than_the_system_gives(environment, limit):
    code = "import os, fastbn; print(fastbn.get_num_threads(), len(os.sched_getaffinity(0)))"
    threads, cores = map(int, run_python(code, **environment).split())
    assert 1 <= threads <= min(cores, limit)


FIRST_CALLS_OF_A_SHAPE = """
from concurrent.futures import ThreadPoolExecutor
import threading, time
import numpy as np
import fastbn
from fastbn._arrays import layout
from fastbn._runtime import jit

x = np.random.default_rng(0).normal(size=(600, 130))  # for one thread, but not at once
expected = fastbn.forward(x)[0]
address, start = jit.Step.address, threading.Barrier(8)

def slow(self):  # as it is when it compiles
    time.sleep(0.001 * np.random.random())
    return address.fget(self)

jit.Step.address = property(slow)

def work(_):
    start.wait()
    y = fastbn.forward(x)[0]
    junk = [np.full(6, 7, np.uintp) for _ in range(100)]
    return np.array_equal(y, expected)

fastbn.set_num_threads(1)
with ThreadPoolExecutor(8) as pool:
    for _ in range(40):
        layout.forget()
        assert all(pool.map(work, range(8)))
"""


def test_first_calls_of_a_shape_by_eight_threads():
    run_to_end(FIRST_CALLS_OF_A_SHAPE)
