"""What a program pays before fastbn computes: the import, compiling, and the cost of any call."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from timeit import repeat

import fastbn

from .cases import Case, Data
from .libraries import OPERATIONS, prepared

IMPORT = "import fastbn"
FIRST_CALL = "import fastbn; fastbn.forward(numpy.ones((64, 3, 32, 32), 'f'))"


def seconds(code, **environment):
    """How long code takes in a process of its own that has imported NumPy, and nothing else."""
    code = f"import numpy, time; t = time.perf_counter()\n{code}\nprint(time.perf_counter() - t)"
    home = str(Path(fastbn.__file__).parents[1])  # the same fastbn as here
    environment = os.environ | {"PYTHONPATH": home} | environment
    command = sys.executable, "-c", code
    return float(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)


class Startup:
    """In processes of their own, after `import numpy`."""

    timeout = 300

    def setup_cache(self):
        """The first call with an empty cache of kernels, and with what it has left there."""
        with tempfile.TemporaryDirectory() as empty:
            return [seconds(FIRST_CALL, NUMBA_CACHE_DIR=empty) for _ in ("cold", "warm")]

    def track_import(self, first_calls):
        """`import fastbn` alone, the best of ten processes."""
        return 1e3 * min(seconds(IMPORT) for _ in range(10))

    def track_first_call_cold(self, first_calls):
        """Import, compile for float32, and compute."""
        return first_calls[0]

    def track_first_call_warm(self, first_calls):
        """Import, read compiled code from the disk, and compute."""
        return first_calls[1]

    track_import.unit = "ms"
    track_first_call_cold.unit = "s"
    track_first_call_warm.unit = "s"


class Dispatch:
    """The least time of a call on the smallest batch: all that is not arithmetic."""

    params = (OPERATIONS,)
    param_names = ("operation",)
    unit = "us"

    def track_call(self, operation):
        """Two values in one channel."""
        call = prepared("fastbn", operation, Data(Case("smallest", (2, 1))))
        call()
        return 1e6 * min(repeat(call, number=200, repeat=200)) / 200
