"""Other users of the process's threads: OpenMP's settings, the threading layer, threadpoolctl."""

import importlib.util
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from process import LAYERS, each_layer, environment, run_python, run_to_end

import fastbn
from fastbn._runtime import neighbours


def needs(module):
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"no {module}")


# --- OpenMP's settings, which PyTorch shares ------------------------------------------------------

LARGE = """
import numpy as np
import fastbn

x = np.ones((64, 64, 56, 56), np.float32)

def call():
    from fastbn._runtime import threads
    threads.pace.rests = lambda: False
    fastbn.set_num_threads(2)
    fastbn.batch_stats(x)
    assert threads._launched
"""

TORCH = (
    """
import threading, time
import torch

def cores():
    "How many a PyTorch operation uses."
    a = torch.ones(8_000_000)
    time.sleep(0.2)  # those who have computed fall asleep
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(20):
        a.exp_()
    return (time.process_time() - cpu) / (time.perf_counter() - start)

torch.set_num_threads(1)
assert cores() < 1.3  # the first operation gives this thread PyTorch's number
"""
    + LARGE
)

ONE_CORE = """
call()
assert torch.get_num_threads() == 1
assert cores() < 1.3
torch.set_num_threads(3)
call()
fastbn.set_num_threads(1)
fastbn.batch_stats(x)
assert torch.get_num_threads() == 3
"""

SECOND_THREAD = """
numbers = []

def first():
    torch.ones(100_000).exp_()  # gives this thread PyTorch's number
    call()
    numbers.append(torch.get_num_threads())

thread = threading.Thread(target=first)
thread.start()
thread.join()
call()
assert numbers == [1]
assert torch.get_num_threads() == 1
"""

STARTED_BEFORE = """
import numba

numba.get_num_threads()
theirs = torch.get_num_threads()  # what Numba's start has left is not ours
call()
assert torch.get_num_threads() == theirs
torch.set_num_threads(1)
call()
assert torch.get_num_threads() == 1
assert fastbn.config_info()["threading_layer_from"] == "started before"
"""


@needs("torch")
@each_layer
def test_pytorchs_number_of_threads_is_left_alone(layer):
    run_to_end(TORCH + ONE_CORE, **environment(layer))


@needs("torch")
def test_pytorchs_number_where_another_python_thread_launches_first():
    run_to_end(TORCH + SECOND_THREAD, **environment("omp"))


@needs("torch")
def test_pytorchs_number_where_numba_has_started_before():
    run_to_end(TORCH + STARTED_BEFORE, **environment("omp"))


OPENMP = """
import ctypes
from numba.np.ufunc import omppool

library = ctypes.CDLL(omppool.__file__)
if not hasattr(library, "omp_get_max_threads"):
    print("missing", "done")
    raise SystemExit

def settings():
    names = "max_threads", "max_active_levels", "nested"
    return [getattr(library, "omp_get_" + name)() for name in names]

library.omp_set_num_threads(3)
library.omp_set_max_active_levels({levels})
before = settings()
call()
assert settings() == before, (settings(), before)
"""


@pytest.mark.parametrize("levels", [1, 3])
def test_openmps_settings_are_as_before(levels):
    run_to_end(LARGE + OPENMP.format(levels=levels), **environment("omp"))


def test_a_library_without_the_functions_is_left_alone():
    assert list(neighbours._functions(object())) == []


def test_functions_that_llvm_calls_deprecated_are_left_alone():
    class Llvm:
        kmp_set_blocktime = omp_get_max_threads = omp_set_num_threads = print
        omp_get_nested = omp_set_nested = print

    assert len(list(neighbours._functions(Llvm()))) == 1
    del Llvm.kmp_set_blocktime
    assert len(list(neighbours._functions(Llvm()))) == 2


# --- the threading layer --------------------------------------------------------------------------

LAYER = """
import json, sys
import numba
{before}
config = numba.config
kept = config.THREADING_LAYER, list(config.THREADING_LAYER_PRIORITY)
{large}
first = fastbn.config_info()
call()
assert (config.THREADING_LAYER, list(config.THREADING_LAYER_PRIORITY)) == kept
last = fastbn.config_info()
if config.THREADING_LAYER == "workqueue" or last["threading_layer_from"] == "started before":
    assert "numba.np.ufunc.omppool" not in sys.modules  # which loads OpenMP
keys = "threading_layer", "threading_layer_from"
print(json.dumps([info[key] for info in (first, last) for key in keys]))
"""
PRIORITY = "NUMBA_THREADING_LAYER_PRIORITY"


def chosen(before="", **settings):
    """What `config_info` says of the layer before and after the first launch."""
    return json.loads(run_python(LAYER.format(before=before, large=LARGE), **settings))


def test_omp_is_preferred_to_tbb():
    environment("omp")
    settings = environment("tbb")
    del settings["NUMBA_THREADING_LAYER"]
    why = "fastbn prefers omp"
    assert chosen(**settings) == ["omp (not started)", why, "omp", why]


def test_the_users_choice_in_the_environment_counts():
    settings, why = environment("workqueue"), "NUMBA_THREADING_LAYER"
    assert chosen(**settings) == ["workqueue (not started)", why, "workqueue", why]
    assert chosen(**{PRIORITY: "workqueue omp tbb"})[2:] == ["workqueue", PRIORITY]


def test_the_users_choice_of_numbas_own_order_counts():
    assert chosen(**environment("tbb") | {"NUMBA_THREADING_LAYER": "default"})[2] == "tbb"


@pytest.mark.parametrize(
    "line",
    [
        "numba.config.THREADING_LAYER = 'workqueue'",
        "numba.config.THREADING_LAYER_PRIORITY = ['workqueue', 'omp', 'tbb']",
    ],
)
def test_the_users_choice_in_numbas_configuration_counts(line):
    assert chosen(line)[2:] == ["workqueue", "numba.config"]


def test_a_layer_that_is_in_use_stays():
    line = "numba.config.THREADING_LAYER = 'workqueue'; numba.get_num_threads()"
    line += "; numba.config.THREADING_LAYER = 'default'"
    assert chosen(line) == ["workqueue", "started before"] * 2


def test_without_omp_the_others_are_tried():
    line = "import sys; sys.modules['numba.np.ufunc.omppool'] = None"
    layer, why = chosen(line)[2:]
    assert layer in set(LAYERS) - {"omp"}
    assert why == "fastbn prefers omp"


# --- threadpoolctl --------------------------------------------------------------------------------

ORDERS = {
    "threadpoolctl first": "import threadpoolctl, fastbn",
    "fastbn first": "import fastbn, threadpoolctl",
    "after a call": "import fastbn; fastbn.batch_stats([[1.0], [2.0]]); import threadpoolctl",
    "called before fastbn": "import threadpoolctl; threadpoolctl.threadpool_info(); import fastbn",
    "not told by its import": "import fastbn, sys; del sys.meta_path[0]; import threadpoolctl\n"
    "fastbn.get_num_threads()",
}

LIMITS = """
import json, sys

def info():
    [found] = [i for i in threadpoolctl.threadpool_info() if i["internal_api"] == "fastbn"]
    json.dumps(found)
    return found["num_threads"]

loaded = "numba" in sys.modules
most = info()
with threadpoolctl.threadpool_limits(1):
    assert ("numba" in sys.modules) == loaded
    assert fastbn.get_num_threads() == info() == 1
assert fastbn.get_num_threads() == info() == most

fastbn.set_num_threads(8)
assert info() == 8

def number(*args, **keywords):
    with threadpoolctl.threadpool_limits(*args, **keywords):
        return fastbn.get_num_threads()

assert number({"fastbn": 3}) == number(3, user_api="fastbn") == 3
assert number({"blas": 1}) == number(1, user_api="openmp") == number(None) == 8
assert number(1000) == 8
assert fastbn.get_num_threads() == 8
with threadpoolctl.threadpool_limits(2):
    before = threadpoolctl.threadpool_info()
    assert number(4) == 4
    assert fastbn.get_num_threads() == info() == 2
assert number(before) == 2
assert threadpoolctl.threadpool_limits.wrap(limits=1)(fastbn.get_num_threads)() == 1
limit = threadpoolctl.threadpool_limits(1)
assert fastbn.get_num_threads() == 1
limit.restore_original_limits()
assert fastbn.get_num_threads() == 8
scopes = threadpoolctl.threadpool_info(debugging_info=True)
assert fastbn.get_num_threads() == 8
"""


@needs("threadpoolctl")
@pytest.mark.parametrize("order", ORDERS)
def test_threadpoolctl_limits_in_any_order_of_imports(order):
    run_to_end(ORDERS[order] + LIMITS)


FIRST_CALL = """
import fastbn
import threadpoolctl

with threadpoolctl.threadpool_limits(1):
    import numpy as np
    fastbn.batch_stats(np.ones((64, 64, 56, 56), np.float32))
    from fastbn._runtime import threads
    assert not threads._launched
"""


@needs("threadpoolctl")
def test_a_limit_holds_for_the_first_call():
    run_to_end(FIRST_CALL)


@needs("threadpoolctl")
@pytest.mark.usefixtures("keep_threads")
def test_a_limit_bounds_what_fastbn_was_given():
    from threadpoolctl import threadpool_limits

    fastbn.set_num_threads(3)
    with threadpool_limits(2), ThreadPoolExecutor(1) as pool:
        info = fastbn.config_info()
        assert info["threads"] == info["thread_limits"]["threadpoolctl"] == 2
        assert info["threads_from"] == "threadpoolctl"
        assert pool.submit(fastbn.get_num_threads).result() == 2  # limits all Python threads
        fastbn.set_num_threads(4)
        with fastbn.threads(5):
            assert fastbn.get_num_threads() == 2
        with fastbn.threads(1):
            assert fastbn.get_num_threads() == 1
            assert fastbn.config_info()["threads_from"] == "threads"
    assert fastbn.get_num_threads() == 4
    assert "threadpoolctl" not in fastbn.config_info()["thread_limits"]


OVERLAP = """
import os, threading
import fastbn, threadpoolctl

fastbn.set_num_threads(8)
entered, left = threading.Event(), threading.Event()

def second():
    with threadpoolctl.threadpool_limits(1):
        entered.set()
        left.wait()
        assert fastbn.get_num_threads() == 1

other = threading.Thread(target=second, daemon=True)
with threadpoolctl.threadpool_limits(2):
    other.start()
    entered.wait()
    assert fastbn.get_num_threads() == 1
assert fastbn.get_num_threads() == 1
if hasattr(os, "fork"):
    child = os.fork()
    if child == 0:
        os._exit(fastbn.get_num_threads())  # the other thread is not there
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 8
left.set()
other.join()
assert fastbn.get_num_threads() == 8
"""


@needs("threadpoolctl")
def test_limits_of_python_threads_that_overlap_in_time():
    run_to_end(OVERLAP)


@needs("threadpoolctl")
def test_threadpoolctl_is_not_imported_by_fastbn():
    code = "import sys, fastbn; fastbn.get_num_threads(); print('threadpoolctl' in sys.modules)"
    assert run_python(code).strip() == "False"


STATIC = """
import _ctypes
del _ctypes.__file__
import fastbn, threadpoolctl
found = threadpoolctl.threadpool_info()
assert [i["internal_api"] for i in found].count("fastbn") == 1
"""


@needs("threadpoolctl")
@pytest.mark.skipif(sys.platform != "linux", reason="not on Linux")
def test_an_interpreter_that_has_ctypes_built_in():
    run_to_end(STATIC)


STRANGE = """
import sys, types
sys.modules["threadpoolctl"] = {stranger}
import fastbn
assert fastbn.get_num_threads() >= 1
"""


@pytest.mark.parametrize("stranger", ["types.ModuleType('threadpoolctl')", "None"])
def test_a_threadpoolctl_that_cannot_be_told(stranger):
    run_to_end(STRANGE.format(stranger=stranger))
