"""No array of x's size is allocated beyond the output."""

import tracemalloc
from pathlib import Path

import numpy as np
import options
import pytest
from data import DTYPES, HALVES, channels_last, problem
from process import run_python

import fastbn
from fastbn._runtime import memory

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


@pytest.fixture
def seen(monkeypatch):
    """All memory is NumPy's, which tracemalloc sees, and none is kept."""
    monkeypatch.setattr(memory, "_MARKS", False)
    monkeypatch.setattr(memory, "limit", lambda: 0)
    memory.vector(memory.MINIMUM)  # whose end lets go of what is free


@pytest.mark.usefixtures("seen")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_peak_is_the_output(case, dtype):
    shape, axis, lie = CASES[case]
    x, dy, weight, bias = problem(shape, dtype, channel_axis=axis)
    x, dy = lie(x), lie(dy)
    out = np.empty_like(x)
    one = memory.room_for(x.nbytes) + SMALL  # an output: up to an eighth more than x
    parameters = {"weight": weight, "bias": bias, "channel_axis": axis}
    _, saved = fastbn.forward(x, **parameters, out=out)  # compiles
    fastbn.backward(dy, saved, out=out)

    def peak(call):
        return allocated(call)[1]

    assert peak(lambda: fastbn.forward(x, **parameters, out=out)) <= SMALL
    assert peak(lambda: fastbn.forward(x, **parameters)) <= one
    assert peak(lambda: fastbn.normalize(x, saved.stats, **parameters)) <= one
    assert peak(lambda: fastbn.normalize(x, saved.stats, **parameters, out=out)) <= SMALL
    assert (
        peak(lambda: fastbn.batch_norm(x, None, None, training=True, **parameters, out=out))
        <= SMALL
    )
    assert peak(lambda: fastbn.batch_stats(x, channel_axis=axis)) <= SMALL
    assert peak(lambda: fastbn.backward(dy, saved)) <= one
    assert peak(lambda: fastbn.backward(dy, saved, out=out)) <= SMALL
    assert peak(lambda: fastbn.backward(dy, saved, needs=(False, True, True))) <= SMALL


@pytest.mark.usefixtures("seen")
@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("activation", ["none", "leaky"])
@pytest.mark.parametrize("weights", [None, "mask", "real"])
@pytest.mark.parametrize("case", CASES)
def test_options_take_no_memory(case, weights, activation, dtype):
    """Beyond dresidual, and one weight a sample and position: at most 8 bytes for C values."""
    shape, axis, lie = CASES[case]
    x, dy, weight, bias = problem(shape, np.float32, channel_axis=axis)
    x, dy = lie(x.astype(dtype)), lie(dy.astype(dtype))
    settings = options.settings(shape, weights, activation, True, axis=axis, dtype=dtype)
    settings["residual"] = lie(settings["residual"])
    out, one = np.empty_like(x), memory.room_for(x.nbytes)
    room = SMALL + (0 if weights is None else 3 * 8 * x.size // shape[axis])
    _, saved = fastbn.forward(x, weight, bias, **settings, out=out)  # compiles
    fastbn.backward(dy, saved, out=out)

    def forward():
        return fastbn.forward(x, weight, bias, **settings, out=out)

    assert allocated(forward)[1] <= room
    assert allocated(forward)[2] <= room  # held by what is saved
    assert allocated(lambda: fastbn.backward(dy, saved, out=out))[1] <= one + room
    del settings["weights"]

    def normalize():
        return fastbn.normalize(x, saved.stats, weight, bias, **settings, out=out)

    normalize()  # compiles
    assert allocated(normalize)[1] <= SMALL


@pytest.mark.usefixtures("seen")
def test_saved_holds_references_and_vectors_only():
    x, _, weight, bias = problem((64, 64, 20, 20), np.float32)
    fastbn.forward(x, weight, bias)  # compiles
    (y, saved), _, held = allocated(lambda: fastbn.forward(x, weight, bias))
    assert y.nbytes <= held <= memory.room_for(y.nbytes) + 16 * 1024
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


# A file of 256 MB in pieces of 16: its pages are the system's, not the process's own memory.
POPULATION = """
from pathlib import Path
import numpy as np
import fastbn

def own():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])

def pieces(x, most):
    for start in range(0, len(x), len(x) // 16):
        most[0] = max(most[0], own())
        yield x[start : start + len(x) // 16]

x = np.memmap("{path}", np.{dtype}, "r", shape=({rows}, 64, 16))
most = [0]
fastbn.population_stats(pieces(x[: len(x) // 16], most))  # compiled, and every thread has started
before = own()
stats = fastbn.population_stats(pieces(x, most))
assert stats.count == x.size // 64
print(max(most[0], own()) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_population_takes_the_memory_of_no_batch(tmp_path, dtype):
    dtype, path = np.dtype(dtype), tmp_path / "x"
    with path.open("wb") as file:
        file.truncate(256 * 2**20)  # zeros, which take no room on the disk
    rows = 2**18 // dtype.itemsize
    code = POPULATION.format(path=path, rows=rows, dtype=dtype.name)
    assert int(run_python(code)) <= 8 * 2**20
