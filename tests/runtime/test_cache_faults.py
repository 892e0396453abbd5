"""What happens to the files of the kernel cache, seen from outside: processes and a directory.

Kernels take seconds to compile, so that most of these are slow tests; the others damage one file of
a directory that is otherwise warm.
"""

import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest
from process import run_python, stamps

import fastbn

WORK = """
import threading
import numpy as np
import reference
from data import problem
import fastbn

def check(dtype, shape=(6, 3, 5)):
    x, dy, weight, bias = problem(shape, dtype)
    y, saved = fastbn.forward(x, weight, bias)
    dx = fastbn.backward(dy, saved).dx
    mean, var = np.zeros(shape[1]), np.ones(shape[1])
    fastbn.batch_norm(x, mean, var, training=True)
    atol = 1e-11 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(y, reference.forward(x, weight, bias), atol=atol)
    np.testing.assert_allclose(dx, reference.backward(dy, x, weight)[0], atol=atol)
    np.testing.assert_allclose(mean, 0.1 * reference.statistics(x)[0], atol=atol)
"""
DOUBLE = WORK + "check(np.float64)\n"
MIXED = """
import numpy as np
from agreement import Oracle
from data import problem
import fastbn

for dtype in (np.float32, np.float64, np.float16, int):
    x = (4 * problem((6, 3, 5))[0]).astype(dtype)
    Oracle(x).check_stats(fastbn.batch_stats(x))
"""
FIRST_CALLS = (
    WORK
    + """
wrong = []
def work(i):
    try:
        check([np.float32, np.float64][i % 2], [(6, 3, 5), (16, 65, 8, 8)][i // 4])
    except BaseException as error:
        wrong.append(error)

threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not wrong, wrong
"""
)
EIGHT = """
import subprocess, sys
children = [subprocess.Popen([sys.executable, "-W", "error", "-c", {code!r}]) for _ in range(8)]
codes = [child.wait() for child in children]
assert codes == [0] * 8, codes
"""
SPY = """
import sys
names = set()

def hook(event, args):
    if event == "open" and str(args[0]).endswith(".kernel"):
        names.add(str(args[0]))

sys.addaudithook(hook)
{code}
print(*names, sep="\\n")
"""


def kernels(cache):
    return sorted(Path(cache, "fastbn").glob("*.kernel"))


@pytest.fixture(scope="session")
def warm_files():
    """The files that `DOUBLE` needs, from the cache that all the tests share."""
    files = [Path(line) for line in run_python(SPY.format(code=DOUBLE)).split("\n") if line]
    assert files
    return files


@pytest.fixture
def warm(warm_files, tmp_path):
    """A cache directory of its own, with every kernel that `DOUBLE` needs."""
    (tmp_path / "fastbn").mkdir()
    for file in warm_files:
        shutil.copy2(file, tmp_path / "fastbn")
    return tmp_path


DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "garbled in the middle": lambda data: data[:4000] + b"\xff" * 64 + data[4064:],
}


def test_a_warm_cache_is_left_as_it_is(warm):
    before = stamps(warm)
    run_python(DOUBLE, NUMBA_CACHE_DIR=str(warm))
    assert stamps(warm) == before


@pytest.mark.parametrize("name", ["empty", "garbled in the middle"])
def test_a_damaged_file_is_healed(warm, name):
    file = min(kernels(warm), key=lambda f: f.stat().st_size)  # the quickest to compile
    sound = file.read_bytes()
    file.write_bytes(DAMAGES[name](sound))
    damaged = stamps(warm)
    run_python(DOUBLE, NUMBA_CACHE_DIR=str(warm))
    healed = stamps(warm)
    assert [key for key in healed if healed[key] != damaged[key]] == [file.name]
    run_python(DOUBLE, NUMBA_CACHE_DIR=str(warm))
    assert stamps(warm) == healed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["empty", "cut", "garbled in the middle"])
def test_every_file_damaged(warm, name):
    for file in kernels(warm):
        file.write_bytes(DAMAGES[name](file.read_bytes()))
    damaged = stamps(warm)
    run_python(DOUBLE, NUMBA_CACHE_DIR=str(warm))
    healed = stamps(warm)
    assert all(healed[key] != damaged[key] for key in damaged)
    run_python(DOUBLE, NUMBA_CACHE_DIR=str(warm))
    assert stamps(warm) == healed


# Where kernels cannot be kept, one warning says so, whatever is compiled after it.
WARNED = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
{code}
assert [w.category for w in caught] == [RuntimeWarning], caught
message = str(caught[0].message)
assert "cannot be kept" in message and "NUMBA_CACHE_DIR" in message, message
"""


def warned(code):
    """The code, which is to warn once."""
    return WARNED.format(code=textwrap.indent(code, "    "))


MOMENTS = """
import numpy as np
from fastbn._kernels import passes  # small kernels, that compile in no time
for dtype in (np.float32, np.float64):
    mean, var = np.zeros((2, 3), dtype)
    passes.move(mean, var, np.ones((4, 3)), 1.0, 0.5)
    assert mean[0] == 0.5
"""


def nowhere(tmp_path):
    """Settings under which kernels cannot be kept."""
    (tmp_path / "file").write_text("not a directory")
    for place in (tmp_path / "file", tmp_path / "file" / "below", "/proc/none"):
        yield {"NUMBA_CACHE_DIR": str(place)}
    yield {"HOME": str(tmp_path / "file"), "XDG_CACHE_HOME": "", "NUMBA_CACHE_DIR": ""}


def test_nowhere_to_write_is_said_once(tmp_path):
    for settings in nowhere(tmp_path):
        run_python(warned(MOMENTS), **settings)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_nothing_is_said_where_kernels_are_kept(tmp_path):
    run_python(MOMENTS, NUMBA_CACHE_DIR=str(tmp_path))  # warnings are errors there
    assert len(kernels(tmp_path)) == 2


@pytest.mark.slow
def test_nowhere_to_write(tmp_path):
    for settings in nowhere(tmp_path):
        run_python(warned(DOUBLE), **settings)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def tiny(tmp_path):
    """A file system of 16 KiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.slow
def test_a_full_disk(tiny):
    run_python(warned(DOUBLE), NUMBA_CACHE_DIR=str(tiny))
    assert not [file for file in tiny.rglob("*") if file.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("_round", range(20))
def test_eight_processes_from_an_empty_cache(_round, tmp_path):
    run_python(EIGHT.format(code=MIXED), NUMBA_CACHE_DIR=str(tmp_path), timeout=600)
    before = stamps(tmp_path)
    assert before.keys() == {file.name for file in kernels(tmp_path)}, "temporary files are left"
    run_python(MIXED, NUMBA_CACHE_DIR=str(tmp_path))
    assert stamps(tmp_path) == before


@pytest.mark.slow
def test_eight_threads_make_the_first_calls_from_an_empty_cache(tmp_path):
    run_python(FIRST_CALLS, NUMBA_CACHE_DIR=str(tmp_path), timeout=400)
    assert kernels(tmp_path)


def test_nothing_is_written_beside_the_source():
    package = Path(fastbn.__file__).parent
    left = [*package.rglob("*.nbi"), *package.rglob("*.nbc"), *package.rglob("*.kernel")]
    assert not left
