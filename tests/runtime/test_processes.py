"""Thread pools and forks, on each of Numba's threading layers.

Each test is a process of its own with a time limit: what is looked for is a crash, a hang or a
wrong number. `test_threads` has the same for one layer and few calls, `test_cache_faults` what
can happen to files.
"""

import pytest
from process import each_layer, environment, needs_fork, run_python, run_to_end

PRELUDE = """
import os, sys, threading, time
import multiprocessing as mp
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import reference
from data import problem
import fastbn

SHAPES = [(16, 65, 8, 8), (1100, 64), (3, 2, 120, 121), (5, 3, 4)]  # all but the last for a team
PROBLEMS = [problem(s, d) for s in SHAPES for d in (np.float32, np.float64)]

def compute(i):
    x, dy, weight, bias = PROBLEMS[i % len(PROBLEMS)]
    y, saved = fastbn.forward(x, weight, bias)
    return y, *fastbn.backward(dy, saved)[:3], saved.stats.mean

def learn():
    "What is right, checked against the oracle once, then to the bit."
    fastbn.set_num_threads(2)
    asked = os.environ.get("NUMBA_THREADING_LAYER")
    global EXPECTED
    EXPECTED = [compute(i) for i in range(len(PROBLEMS))]
    for (x, dy, weight, bias), got in zip(PROBLEMS, EXPECTED):
        tolerance = 1e-11 if x.dtype == np.float64 else 1e-4
        np.testing.assert_allclose(got[0], reference.forward(x, weight, bias), atol=tolerance)
        np.testing.assert_allclose(got[1], reference.backward(dy, x, weight)[0], atol=tolerance)
    assert asked in (None, fastbn.config_info()["threading_layer"])

def right(i):
    return all(map(np.array_equal, compute(i), EXPECTED[i % len(PROBLEMS)]))

def fork(work):
    "Start a child that works and exits with 0 if that returns True."
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            code = 0 if work() else 4
        finally:
            os._exit(code)
    return pid

def finished(pid, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (found := os.waitpid(pid, os.WNOHANG))[0]:
            code = os.waitstatus_to_exitcode(found[1])
            assert code == 0, f"a child ended with {code}"
            return True
        time.sleep(0.01)
    os.killpg(0, 9)  # the child hangs: end it, its siblings and this process

def busy(threads):
    "Threads that compute until the event is set; what goes wrong is kept."
    stop, wrong = threading.Event(), []
    def work():
        i = 0
        while not stop.is_set():
            i += 1
            if not right(i):
                wrong.append(i)
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers: worker.start()
    return stop, workers, wrong
"""

POOLS = """
learn()
most = threading.active_count()

def calls(start, n):
    return sum(right(start + i) for i in range(n))

for workers, n in ((2, 300), (8, 80)):
    with ThreadPoolExecutor(workers) as pool:
        counts = list(pool.map(calls, range(workers), [n] * workers))
    assert counts == [n] * workers, counts
"""

FORKS = """
learn()

def generations():
    return right(0) and right(4) and finished(fork(lambda: right(1) and right(5)))

assert finished(fork(generations))
with mp.get_context("fork").Pool(4) as pool:
    assert all(pool.map(right, range(16)))
stop, workers, wrong = busy(2)
for i in range(10):
    assert finished(fork(lambda: right(i) and right(i + 1)))
stop.set()
for worker in workers: worker.join()
assert not wrong and right(0) and right(1)
"""

LOADER = """
import torch
from torch.utils.data import DataLoader, Dataset

learn()

class Normalised(Dataset):
    def __len__(self):
        return 12
    def __getitem__(self, i):
        return torch.tensor(right(i))

for _ in range(2):
    loader = DataLoader(Normalised(), batch_size=3, num_workers=2, multiprocessing_context="fork")
    assert all(bool(batch.all()) for batch in loader)
assert right(0)
"""

FIRST_USE = """
# The first call imports Numba: a child must not wait for an import that its parent had begun.
def ready():
    return np.isfinite(fastbn.batch_norm(np.eye(4), training=True)).all()

first = threading.Thread(target=ready)
children = []
first.start()
for _ in range(8):
    children.append(fork(ready))
    time.sleep(0.08)
first.join()
assert all(finished(child, 150) for child in children)  # each may have to compile
"""

FIRST_ACCESS = """
import os, sys, threading, time
import numpy as np
import fastbn

# A thread makes the very first access, and goes on; the process forks so many seconds later.
x = np.arange(80_000, dtype=np.float32).reshape(8, 4, 50, 50)  # for a team
wrong, ready = [], threading.Event()

def work():
    while not wrong:
        try:
            assert abs(fastbn.forward(x)[0].mean()) < 1e-5
        except BaseException as error:
            wrong.append(error)
        ready.set()

threading.Thread(target=work, daemon=True).start()
time.sleep({delay})
pid = os.fork()
if pid == 0:
    y, saved = fastbn.forward(x)
    fastbn.backward(y, saved)
    os._exit(0 if abs(y.mean()) < 1e-5 else 4)
end = time.monotonic() + 60
while not (found := os.waitpid(pid, os.WNOHANG))[0]:
    assert time.monotonic() < end or os.kill(pid, 9), "the child hangs"
    time.sleep(0.01)
assert os.waitstatus_to_exitcode(found[1]) == 0 and ready.wait(60) and not wrong, (found, wrong)
print(fastbn.config_info()["threading_layer"], flush=True)
os._exit(0)
"""

LOCKED = """
# A thread is changing the list of workspaces while the process forks.
from fastbn._runtime import memory

x = np.ones((40, 5000), np.float32)  # whose workspace is not small
fastbn.forward(x)
held = threading.Event()

def hold():
    with memory._lock:
        held.set()
        time.sleep(0.3)

holder = threading.Thread(target=hold)
holder.start()
held.wait()
assert finished(fork(lambda: fastbn.forward(x)[1].stats.count == 40), 20)
holder.join()
fastbn.forward(x)
"""

UNGUARDED = """
# What is imported while no fork waits for it.
from fastbn._runtime import forks

unguarded = set()

def hook(event, args):
    if event == "import" and args[0] not in sys.modules:
        locks = forks.importing, getattr(forks._compiler_lock(), "_lock", None)
        if not any(lock and lock._is_owned() for lock in locks):
            unguarded.add(args[0])

sys.addaudithook(hook)
for i in range(len(PROBLEMS)):
    x, dy, weight, bias = PROBLEMS[i]
    fastbn.backward(dy, fastbn.forward(x, weight, bias)[1])
    fastbn.batch_norm(x, training=True)
layer = fastbn.BatchNorm(65)
layer.backward(layer(PROBLEMS[0][0]))
layer.eval()(PROBLEMS[0][0])
fastbn.get_num_threads()
assert not unguarded, unguarded
"""

COMPILING = """
import numba  # nothing is in the cache: the other thread compiles for seconds
first = threading.Thread(target=lambda: fastbn.batch_stats(PROBLEMS[1][0]))
first.start()
time.sleep(1.0)
assert first.is_alive(), "compiled too soon to test anything"
children = [fork(lambda: fastbn.batch_stats(PROBLEMS[1][0]).count == 1024) for _ in range(2)]
first.join()
assert all(finished(child) for child in children)
"""


def run(code, **settings):
    run_to_end(PRELUDE + code, **settings)


@each_layer
def test_thread_pools(layer):
    run(POOLS, **environment(layer))


@needs_fork
@each_layer
def test_forks(layer):
    run(FORKS, **environment(layer))


@needs_fork
@each_layer
def test_data_loader(layer):
    pytest.importorskip("torch")
    run(LOADER, **environment(layer))


@needs_fork
def test_fork_during_the_first_use():
    run(FIRST_USE)


@needs_fork
@each_layer
@pytest.mark.parametrize("milliseconds", [0, 1, 2, 3, 4, 6, 8, 10, 15, 20])
def test_fork_during_the_first_access(layer, milliseconds):
    settings = {"NUMBA_NUM_THREADS": "2", **environment(layer)}
    code = FIRST_ACCESS.format(delay=milliseconds / 1000)
    used = run_python(code, timeout=150, **settings).strip()
    assert used == settings.get("NUMBA_THREADING_LAYER", used)
    assert "not started" not in used


@needs_fork
def test_fork_while_another_thread_keeps_a_workspace():
    run(LOCKED)


def test_calls_import_nothing_that_forks_do_not_wait_for():
    run(UNGUARDED)


@needs_fork
@pytest.mark.slow
def test_fork_while_another_thread_compiles(tmp_path):
    run(COMPILING, NUMBA_CACHE_DIR=str(tmp_path))


def test_a_wrong_number_would_be_seen():
    wrong = "\ndef compute(i):\n    y, *rest = _compute(i)\n    return (y + (i == 100), *rest)\n"
    code = "_compute = compute\n" + POOLS.replace("def calls", wrong + "\ndef calls")
    with pytest.raises(AssertionError, match=r"\[299, 299\]"):
        run(code)
