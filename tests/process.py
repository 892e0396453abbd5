"""Code run in a Python process of its own: a failure may be a crash, a hang or a warning."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

TIMEOUT = 180  # seconds; kernels may have to compile


def run_python(code, *, timeout=None, **environment):
    """What the code prints. Warnings are errors; after a time-out its children die with it."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "script.py"
        script.write_text(code)
        process = subprocess.Popen(
            [sys.executable, "-W", "error", str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path} | environment,
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
