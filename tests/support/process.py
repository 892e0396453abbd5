"""Code run in a Python process of its own: a failure may be a crash, a hang or a warning."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import fastbn

TIMEOUT = 180  # seconds; kernels may have to compile
LAYERS = {
    "default": None,
    "omp": "numba.np.ufunc.omppool",
    "tbb": "numba.np.ufunc.tbbpool",
    "workqueue": "numba.np.ufunc.workqueue",
}
each_layer = pytest.mark.parametrize("layer", LAYERS)
needs_fma = pytest.mark.skipif(
    not fastbn.config_info()["fused_multiply_add"], reason="no fused multiply-add"
)
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user"
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
# The tbb wheel puts its library where no loader looks.
LIBRARIES = os.pathsep.join(
    filter(None, [str(Path(sys.prefix, "lib")), os.environ.get("LD_LIBRARY_PATH")])
)


def environment(layer):
    """What asks Numba for this threading layer; skips the test where it cannot be loaded."""
    if LAYERS[layer] is None:
        return {}
    settings = {"NUMBA_THREADING_LAYER": layer}
    if layer == "tbb":
        settings["LD_LIBRARY_PATH"] = LIBRARIES
    command = [sys.executable, "-c", f"import {LAYERS[layer]}"]
    if subprocess.run(command, env=os.environ | settings, capture_output=True).returncode:
        pytest.skip(f"no {layer} layer")
    return settings


def python_path():
    """What a child process has to have in PYTHONPATH to import what this one can."""
    return os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])


def run_python(code, *, timeout=None, **environment):
    """What the code prints. Warnings are errors; after a time-out its children die with it.

    It may import what stands beside this file.
    """
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "script.py"
        script.write_text(code)
        process = subprocess.Popen(
            [sys.executable, "-W", "error", str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": python_path()} | environment,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=timeout or TIMEOUT)
        except subprocess.TimeoutExpired:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.communicate()
            raise
    assert process.returncode == 0, err or f"exit code {process.returncode}"
    return out


def command(*arguments, **environment):
    """The process that ran ``python -m fastbn`` to its end. Warnings are errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "fastbn", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=os.environ | {"PYTHONPATH": python_path()} | environment,
    )


def run_to_end(code, **settings):
    """Run code to its last line: whatever ends it early, even with exit code 0, is a failure."""
    assert "done" in run_python(code + '\nprint("done")\n', **settings).split()


def stamps(cache):
    """The files of a kernel cache, and when each was written."""
    return {file.name: file.stat().st_mtime_ns for file in Path(cache, "fastbn").glob("*")}
