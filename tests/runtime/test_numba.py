"""What fastbn rests on in Numba beyond its public interface: where a part has gone, look here."""

import ast
import importlib
from pathlib import Path

import numba
import pytest
from numba import types
from process import environment, run_python

import fastbn

PACKAGE = Path(fastbn.__file__).parent

# Modules that Numba does not promise to keep, and what is imported of each, in all.
PRIVATE = {
    "numba.core": {"cgutils", "compiler", "config", "serialize"},
    "numba.core.caching": {"NullCache"},
    "numba.core.ccallback": {"CFunc"},
    "numba.core.compiler_lock": {"global_compiler_lock"},
    "numba.core.registry": {"cpu_target"},
    "numba.np.arrayobj": {"populate_array"},
}
PUBLIC = {"numba", "numba.extending"}
AT_HOME = {"_runtime", "_kernels/simd.py"}  # where private parts may be used
VERSION = f"Numba {numba.__version__} has changed what fastbn rests on"


def imports():
    """(file, module, name) of everything that the package imports of Numba."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numba":
                for alias in node.names:
                    yield path.relative_to(PACKAGE), node.module, alias.name
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] == "numba":
                        yield path.relative_to(PACKAGE), alias.name, None


def test_private_parts_are_used_in_two_places_and_listed():
    found = {}
    for file, module, name in imports():
        if module not in PUBLIC:
            assert {file.parts[0], file.as_posix()} & AT_HOME, f"{file} imports {module}"
            found.setdefault(module, set()).add(name)
    assert found == PRIVATE


@pytest.mark.parametrize("module", PRIVATE)
def test_they_are_there(module):
    found = importlib.import_module(module)
    assert {name for name in PRIVATE[module] if not hasattr(found, name)} == set(), VERSION


def test_what_the_kernel_cache_takes_the_place_of():
    from numba.core import caching, compiler, serialize
    from numba.core.ccallback import CFunc
    from numba.core.dispatcher import Dispatcher

    assert hasattr(compiler.CompileResult, "_rebuild"), VERSION
    assert hasattr(compiler.CompileResult, "_reduce"), VERSION
    assert callable(getattr(serialize, "dumps", None)), VERSION
    assert {"load_overload", "save_overload", "cache_path"} <= set(dir(caching.NullCache)), VERSION
    kernel = numba.njit(lambda x: x)
    assert isinstance(kernel, Dispatcher)
    assert isinstance(kernel._cache, caching.NullCache), VERSION
    step = CFunc(lambda x: x, ((types.uintp,), types.uintp), locals={}, options={})
    assert isinstance(step._cache, caching.NullCache), VERSION
    step.compile()
    assert isinstance(step.address, int), VERSION


def test_what_forks_wait_for():
    from fastbn._runtime import forks

    lock = forks._compiler_lock()
    assert lock is not None, VERSION
    assert {"acquire", "release", "_lock"} <= set(dir(lock)), VERSION


def test_what_tells_whether_the_processor_fuses():
    from numba.core.registry import cpu_target

    machine = cpu_target.target_context.codegen().magic_tuple()
    assert [type(part) for part in machine] == [str] * 3, VERSION


def test_what_puts_openmps_settings_back_and_prefers_omp():
    from numba.core import config

    assert sorted(config.THREADING_LAYER_PRIORITY) == ["omp", "tbb", "workqueue"], VERSION
    assert isinstance(config.THREADING_LAYER, str), VERSION
    environment("omp")  # skips where there is no numba.np.ufunc.omppool
    code = """
import ctypes
from numba.np.ufunc import omppool
ctypes.CDLL(omppool.__file__).omp_get_max_threads()
"""
    run_python(code)
