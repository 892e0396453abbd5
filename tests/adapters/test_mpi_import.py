"""mpi4py is imported by its adapter and by nothing else; what is missing is said."""

import pytest
from process import run_python

pytest.importorskip("mpi4py")
pytest.importorskip("fastbn.adapters.mpi", reason="no MPI to load", exc_type=ImportError)

USED = """
import sys
import numpy as np
import fastbn

bn = fastbn.BatchNorm2d(3)
bn.backward(bn(np.ones((2, 3, 4, 4), np.float32)))
fastbn.Saved, fastbn.threads, fastbn.config_info()
import fastbn.adapters
print([name for name in sys.modules if name.startswith("mpi4py")])
"""

WITHOUT = """
import sys

sys.modules["mpi4py"] = None  # as if it were not installed
import fastbn
try:
    import fastbn.adapters.mpi
except ImportError as error:
    print(error)
"""

NO_LIBRARY = """
import sys

class Finder:
    @staticmethod
    def find_spec(name, path, target=None):
        if name == "mpi4py.MPI":  # what mpi4py raises where it finds no library
            raise RuntimeError("cannot load MPI library")

sys.meta_path.insert(0, Finder)
import fastbn
try:
    import fastbn.adapters.mpi
except ImportError as error:
    print(error)
"""

ALONE = """
import numpy as np
from fastbn.adapters.mpi import SyncBatchNorm

print(SyncBatchNorm(2)(np.ones((3, 2), np.float32)).shape)
"""


def test_fastbn_does_not_import_mpi4py():
    assert run_python(USED).strip() == "[]"


def test_its_adapter_does():
    code = "import sys, fastbn.adapters.mpi; print('mpi4py.MPI' in sys.modules)"
    assert run_python(code).strip() == "True"


def test_what_is_missing_is_said():
    words = "fastbn.adapters.mpi needs mpi4py and an MPI: pip install 'fastbn[mpi]'"
    assert run_python(WITHOUT).strip() == words


def test_a_library_that_mpi4py_does_not_find_is_said():
    words = run_python(NO_LIBRARY)
    assert words.startswith("fastbn.adapters.mpi needs an MPI that mpi4py can load: pip install ")
    assert "mpi4py said: cannot load MPI library" in words


def test_without_mpirun_it_is_one_rank():
    assert run_python(ALONE).strip() == "(3, 2)"
