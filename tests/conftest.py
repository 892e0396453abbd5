"""Settings that must stand before Numba is imported, and the fixtures several files share."""

import os

# 3, 4 and 8 threads are tested on any machine, however few its cores.
os.environ.setdefault("NUMBA_NUM_THREADS", "8")

import pytest
from hypothesis import HealthCheck, settings

# Their assertions say what was found, as those of test files do.
pytest.register_assert_rewrite("agreement", "calls", "data", "refusals")

settings.register_profile(
    "fastbn",
    deadline=None,  # the first example compiles
    max_examples=100,
    derandomize=True,  # the same examples on every machine
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("fastbn")


def pytest_addoption(parser):
    parser.addoption(
        "--fuzz-seconds", type=float, default=2.0, help="how long test_fuzz.py searches"
    )
    parser.addoption(
        "--fuzz-seed", type=int, default=0, help="its first case; a failure prints its own"
    )


@pytest.fixture
def keep_threads():
    """Put the number of threads back after the test."""
    import fastbn

    before = fastbn.get_num_threads()
    yield
    fastbn.set_num_threads(before)


@pytest.fixture
def as_started(monkeypatch):
    """This process as if nobody had set its number of threads: other tests have, perhaps."""
    from fastbn._runtime import threads

    monkeypatch.setattr(threads, "_chosen", None)


@pytest.fixture(scope="module")
def one_torch_thread():
    """Small tensors in a third of the time: PyTorch's idle threads spin where others compute."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_cache():
    """A last-level cache of a few bytes: every store that may is a non-temporal one."""
    from fastbn._arrays import layout

    with layout.assume_cache(1):
        yield


@pytest.fixture(params=["plain", "nontemporal"])
def stores(request):
    """Each of the two kinds of stores, in turn."""
    if request.param == "nontemporal":
        request.getfixturevalue("small_cache")
