"""The kernels as plain Python: right results, and an access outside of an array is an error.

Compiled kernels check nothing. These do: every vector that is loaded or stored, every single value,
every part of a workspace, and that non-temporal stores lie on whole lines.
"""

import shutil
from pathlib import Path

import pytest
from process import run_python

import fastbn

CODE = """
import numba
assert numba.config.DISABLE_JIT
import numpy as np
import options
import reference
from agreement import assert_agreement
from data import HALVES, problem
import fastbn
from shapes import NARROW, WIDE

np.seterr(all="ignore")  # as in compiled code: lanes that no channel has may hold anything
from fastbn._arrays import layout
from fastbn._kernels import schedule

def check(x, dy, weight, bias):
    tolerance = 64 * np.finfo(x.dtype).eps * 40
    y, saved = fastbn.forward(x, weight, bias)
    np.testing.assert_allclose(y, reference.forward(x, weight, bias), 0, tolerance)
    grads, truth = fastbn.backward(dy, saved), reference.backward(dy, x, weight)
    for mine, expected in zip(grads[:3], truth[:3], strict=True):
        np.testing.assert_allclose(mine, expected, 0, tolerance * 10)
    fixed, kept = fastbn.forward(x, weight, bias, stats=saved.stats)
    np.testing.assert_array_equal(fixed, y)
    assert fastbn.backward(dy, kept).dx.shape == x.shape
    mean, var = saved.stats.mean, saved.stats.var()
    np.testing.assert_allclose(fastbn.batch_norm(x, mean, var, weight, bias), y, 0, tolerance)

def check_options(shape, dtype, names):
    assert_agreement(*problem(shape, dtype), **options.settings(shape, *names, dtype=dtype))

for cache in (1 << 30, 1):  # plain stores, and non-temporal ones
    with layout.assume_cache(cache):
        for dtype in (np.float32, np.float64):
            for shape in NARROW + WIDE:
                x, dy, weight, bias = problem(shape, dtype)
                check(x, dy, weight, bias)
                x[0, 0] += 1000  # an outlier in first place
                check(x, dy, weight, bias)
        for dtype in (np.float32, np.float64, *HALVES):
            for shape in (*NARROW, WIDE[1]):
                check_options(shape, dtype, ("real", "leaky", True))
        for dtype in HALVES:
            for shape in NARROW:
                check_options(shape, dtype, (None, "none", False))

# Slabs of few channels, and a team: its threads take turns here, each in its own part of the room.
schedule.LARGE, schedule.BLOCK = 1, 512
fastbn.set_num_threads(3)
with layout.assume_cache(1):
    for shape in ((6, 40, 9, 16), (3, 18, 600), (1, 15, 140), (3, 300, 5), (5, 3000), (90, 11, 7)):
        x, dy, weight, bias = problem(shape, np.float32)
        x[0, 3] += 1e6
        assert (schedule.plan(shape, 1, 4).walk(1, 3, True).slab > 0) == (shape[0] != 90), shape
        check(x, dy, weight, bias)
        fastbn.forward(x, x[0].ravel()[: shape[1]])  # a weight that begins where x does
print("done")
"""


def interpreted(path=None):
    """Run the code on the package at a path; its standard error, empty if all is right."""
    settings = {"NUMBA_DISABLE_JIT": "1"}
    code = f"import sys; sys.path.insert(0, {str(path)!r})\n{CODE}" if path else CODE
    try:
        assert run_python(code, **settings) == "done\n"
    except AssertionError as error:
        return str(error)
    return ""


def test_without_compilation():
    assert interpreted() == ""


BITS = """
import numpy as np
import options
from data import HALVES, problem
from shapes import NARROW
import fastbn
from fastbn import _verify

np.seterr(all="ignore")
for dtype in (np.float32, np.float64):
    for shape in NARROW:
        for scale in (1, 1e-20, 1e-42, 1e30):  # plain; without digits, and with ones for infinity
            x, dy, weight, bias = problem(shape, dtype)
            x *= dtype(scale)
            x[0, 0] += 1000 * (scale == 1e-20)
            arrays = _verify.functions(x, dy, weight, bias, 1)
            print(dtype.__name__, shape, scale, _verify.sha256(arrays))
for dtype in map(np.dtype, (np.float32, np.float64, *HALVES)):
    for shape in NARROW:
        x, dy, weight, bias = problem(shape, dtype)
        for names in ((None, "none", False), ("real", "leaky", True), ("mask", "relu", False)):
            settings = options.settings(shape, *names, dtype=dtype)
            y, saved = fastbn.forward(x, weight, bias, **settings)
            arrays = [y, saved.stats.mean, saved.stats.m2, *fastbn.backward(dy, saved)]
            digest = _verify.sha256(a for a in arrays if a is not None)
            print(dtype.name, shape, names, digest)
print(*_verify.digests(sum(_verify.TINY.values(), ())).values())
"""


def test_the_same_bits_as_compiled():
    compiled = run_python(BITS).splitlines()
    assert len(set(compiled)) == len(compiled) > 100
    assert run_python(BITS, NUMBA_DISABLE_JIT="1").splitlines() == compiled


# Ways of a kernel to go too far: the file, what stands there, what to put there, the error.
OVERRUNS = {
    "a vector too many in rows": (
        "rows.py",
        "            while o < full:\n                affine_nontemporal",
        "            while o < full + lanes:\n                affine_nontemporal",
        "IndexError",
    ),
    "a row too many in columns": (
        "columns.py",
        "    for _ in range(rows):\n        _beside",
        "    for _ in range(rows + ONE):\n        _beside",
        "AssertionError",  # of a result: what it reads exists
    ),
    "a value too many in columns": (
        "columns.py",
        "    while o < stop:\n        affine_one",
        "    while o <= stop:\n        affine_one",
        "IndexError",
    ),
    "a coefficient too few": (
        "columns.py",
        "    return start, plan.write_width + lanes\n",
        "    return start, plan.write_width\n",
        "IndexError",
    ),
    "a part of the workspace too small": (
        "abi.py",
        '"own_sums": (2 * c, 0)',
        '"own_sums": (c, 0)',
        "IndexError",
    ),
    "a non-temporal store beside a line": (
        "rows.py",
        "head = min(stop, o + to_line(operands.out, o)) if plan.aligned != ZERO else o",
        "head = o",
        "ValueError: a non-temporal store",
    ),
}


@pytest.mark.parametrize("name", OVERRUNS)
def test_what_goes_too_far_is_seen(name, tmp_path):
    file, before, after, error = OVERRUNS[name]
    package = tmp_path / "fastbn"
    shutil.copytree(Path(fastbn.__file__).parent, package)
    source = (package / "_kernels" / file).read_text()
    assert source.count(before) == 1
    (package / "_kernels" / file).write_text(source.replace(before, after))
    assert error in interpreted(tmp_path)
