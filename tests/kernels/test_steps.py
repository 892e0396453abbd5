"""The steps of a pass: all there are, each with a symbol of its own in every process."""

import itertools

import ml_dtypes
import numpy as np
from numba.core.bytecode import FunctionIdentity
from process import run_python

from fastbn._kernels import passes, schedule, steps


def test_steps_have_symbols_of_their_own(monkeypatch):
    keys, names = list(steps.keys()), set()
    assert keys
    for key in keys:  # another process may have given each the same number
        monkeypatch.setattr(FunctionIdentity, "_unique_ids", itertools.count(1))
        names.add(FunctionIdentity.from_function(steps._made(key)._function).unique_name)
    assert len(names) == len(keys)


def test_the_steps_are_those_that_passes_ask_for():
    asked = set()
    for storage in ("float32", "float64", "float16", "bfloat16"):
        dtype = np.dtype(getattr(ml_dtypes, storage, storage))
        itemsize = max(4, dtype.itemsize)
        for shape in ((40, 3, 500), (40, 3, 20), (40, 3), (1, 3, 20)):
            for task in range(16):
                plan = schedule.plan(shape, 1, itemsize, dtype)
                asked |= set(passes._keys(plan, task).values())
    assert asked == set(steps.keys())


WARMED = """
from fastbn import _cli
from fastbn._kernels import steps
from fastbn._runtime import jit

_cli.main(["warmup", "--dtypes", "float32"])
wanted = {repr(key) for key in steps.keys() if key.storage is steps.Storage.FLOAT32}
assert wanted <= {cache._name for cache in jit.caches if cache.found + cache.compiled}
"""


def test_a_warm_up_leaves_out_no_step():
    run_python(WARMED)


LEFT_TO_THE_COMPILER = r"""
import re
import numpy as np
from fastbn._kernels import passes, steps

ARITHMETIC = re.compile(r"\bf(?:add|sub|mul|div|neg) .*|call .*")
FREE = re.compile(
    r"\b(?:fast|reassoc|contract|arcp|afn|nsz|nnan|ninf)\b|fmuladd|reduce\.f"
    # Floating-point functions beyond these, and others than ours, Numba's and Python's: libraries
    # differ. Vectors of roots may become calls of one.
    r"|llvm\.(?!fma\.|fabs\.|is\.fpclass\.|masked\.|experimental\.constrained\.)[\w.]*\.v?[0-9]*f(?:32|64)\b"
    r"|call [^@(]*@(?!llvm\.|_ZN|NRT_|numba_|Py|_Py)"
)
texts = []
for key in steps.keys():
    step = steps._made(key)
    step.address
    texts.append(step._compiled._library.get_llvm_str())
passes.move(*np.ones((2, 3)), np.ones((4, 3)), 1.0, 0.1)
texts += passes.move.inspect_llvm().values()
lines = [line for text in texts for line in ARITHMETIC.findall(text)]
found = list(filter(FREE.search, lines))
assert not found, found[:3]
print(len(lines))
"""


def test_nothing_is_left_to_the_compiler(tmp_path):
    assert int(run_python(LEFT_TO_THE_COMPILER, NUMBA_CACHE_DIR=str(tmp_path))) > 2000
