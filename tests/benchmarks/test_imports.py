"""Every file of the benchmarks can be imported: without libraries, and beside older versions."""

import sys
from pathlib import Path

import pytest
from process import run_python

import benchmarks

ROOT = Path(benchmarks.__file__).parents[1]
OTHERS = ("torch", "sklearn", "jax", "pandas", "matplotlib")
IMPORTS = f"""
import sys
sys.modules.update(dict.fromkeys({OTHERS}))
import importlib, pkgutil
import benchmarks

for found in pkgutil.iter_modules(benchmarks.__path__, "benchmarks."):
    print(importlib.import_module(found.name).__name__)
"""


def test_asv_can_import_every_file_without_other_libraries():
    found = run_python(IMPORTS).split()
    assert "benchmarks.bench_floor" in found
    assert "benchmarks.timing" in found


@pytest.mark.skipif(not (ROOT / "fastbn").is_dir(), reason="tests alone, of an archive")
def test_files_come_from_the_checkout_and_not_from_an_older_fastbn(tmp_path):
    (tmp_path / "fastbn").mkdir()
    (tmp_path / "fastbn" / "__init__.py").write_text('__version__ = "0.0.1"\n')
    code = f"""
import sys
sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]
import fastbn
from benchmarks import cases, measure
print(fastbn.__version__, measure.__file__)
"""
    version, file = run_python(code).split(maxsplit=1)
    assert version == "0.0.1"
    assert Path(file.strip()) == ROOT / "fastbn" / "_bench" / "measure.py"


def test_the_bench_of_the_command_line_is_the_same_source():
    from benchmarks import timing as theirs
    from fastbn._bench import timing as ours

    assert ours.__file__ == theirs.__file__
    assert ours is not theirs
    assert sys.modules["benchmarks.timing"] is theirs
