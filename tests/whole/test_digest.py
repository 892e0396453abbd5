"""One SHA-256 for everything: any processor, vector width, number of threads, threading layer."""

import platform
import shutil
from pathlib import Path

import llvmlite.binding
import numpy as np
import pytest
from process import each_layer, environment, needs_fma, run_python

import fastbn
from fastbn import _verify

INFO = fastbn.config_info()
DIGEST = INFO["digest"]
EVERY = f"{DIGEST}-{INFO['digest_of_options']}-{INFO['digest_of_bfloat16']}"
MANY = 1, 2, 3, 4, 8, 16, 64
SCRIPT = """
import fastbn
from fastbn import _verify

for threads in {threads}:
    fastbn.set_num_threads(threads)
    groups = list(_verify.GROUPS.values())[: {groups}]
    print(*(_verify.total(_verify.digests(names)) for names in groups), sep="-")
"""
FEATURES = llvmlite.binding.get_host_cpu_features()
V3, V4 = "x86-64-v3", "x86-64-v4"
# What this machine can run of other processors: names and features that LLVM compiles for. The
# preferred width is that of the vectors that the compiler makes of loops.
PROCESSORS = {
    "AVX2": (V3, ""),
    "AVX2, 16 bytes preferred": (V3, "+prefer-128-bit"),
    "AVX-512, 64 bytes preferred": (V4, "-prefer-256-bit"),
    "AVX-512, 32 bytes preferred": (V4, "+prefer-256-bit"),
    "AVX-512, 16 bytes preferred": (V4, "+prefer-128-bit"),
}
HALVES = ["half, a small image"]
SETTINGS = {
    "optimised little": {"NUMBA_OPT": "1", "NUMBA_LOOP_VECTORIZE": "0"},
    "vectorised more": {"NUMBA_SLP_VECTORIZE": "1"},
}

pytestmark = needs_fma


def digests(*threads, groups=1, **environment):
    """The digest at each number of threads, one after the other in one process.

    Kernels for options take a minute to compile: of so many groups of cases.
    """
    script = SCRIPT.format(threads=threads, groups=groups)
    return run_python(script, NUMBA_NUM_THREADS="64", timeout=600, **environment).split()


@each_layer
def test_any_number_of_threads_on_any_layer(layer):
    assert digests(*MANY, groups=3, **environment(layer)) == [EVERY] * len(MANY)


def test_just_compiled_and_from_the_cache(tmp_path):
    for _ in range(2):
        assert digests(2, NUMBA_CACHE_DIR=str(tmp_path)) == [DIGEST]


def needs(name):
    """Skips the test where this machine cannot run code for a processor of this name."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not FEATURES.get("avx2"):
        pytest.skip("no AVX2")
    if name == V4 and not FEATURES.get("avx512vl"):
        pytest.skip("no AVX-512")


@pytest.mark.parametrize("processor", PROCESSORS)
def test_other_processors(processor):
    name, features = PROCESSORS[processor]
    needs(name)
    assert digests(2, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features) == [DIGEST]


@pytest.mark.parametrize("features", ["", "-f16c"])
def test_float16_with_instructions_for_it_and_without(features):
    needs(V3)
    script = f"""
from fastbn import _verify, config_info
assert config_info()["float16_conversion"] == {features == ""}
print(*_verify.digests({HALVES}).values())
"""
    settings = {"NUMBA_CPU_NAME": V3, "NUMBA_CPU_FEATURES": features}
    assert run_python(script, **settings).split() == list(_verify.digests(HALVES).values())


@pytest.mark.parametrize("settings", SETTINGS)
def test_other_settings_of_numba(settings):
    assert digests(2, **SETTINGS[settings]) == [DIGEST]


# What would give other bits: the file, what stands there, what to put there.
CHANGES = {
    "an order": (
        "simd.py",
        "(range(lanes), range(lanes, 2 * lanes))",
        "(range(0, 2 * lanes, 2), range(1, 2 * lanes, 2))",
    ),
    "a contraction": ("simd.py", "if not fuses(self.context.codegen().magic_tuple()):", "if True:"),
    "a lane": (
        "simd.py",
        "signature, args)\n            loop, n = RunSum(emit, exact=False",
        "signature, args, 32)\n            loop, n = RunSum(emit, exact=False",
    ),
    "a weighted term": (
        "simd.py",
        "return builder.fmul(d, convert(weight)), d",
        "return builder.fmul(builder.fadd(d, d), convert(weight)), d",
    ),
    "a rounding of halves": (
        "simd.py",
        "half = builder.fptrunc(value,",
        "half = builder.fptrunc(builder.fadd(value, value),",
    ),
    "a term": ("abi.py", "UNROLL, CHAIN = 2, 8", "UNROLL, CHAIN = 2, 9"),
}
SENSITIVE = ["odd runs", "a small image"]
SENSITIVE_TO = {
    "a weighted term": ["options, a small image"],
    "a rounding of halves": ["half, a small image"],
}
CHANGED = """
import sys
sys.path.insert(0, {path!r})
from fastbn import _verify

print(*_verify.digests({cases}).values())
"""


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_bits_is_seen(name, tmp_path):
    file, before, after = CHANGES[name]
    package = tmp_path / "fastbn"
    shutil.copytree(Path(fastbn.__file__).parent, package)
    source = (package / "_kernels" / file).read_text()
    assert source.count(before) == 1
    (package / "_kernels" / file).write_text(source.replace(before, after))
    cases = SENSITIVE_TO.get(name, SENSITIVE)
    script = CHANGED.format(path=str(tmp_path), cases=cases)
    found = run_python(script, NUMBA_CACHE_DIR=str(tmp_path)).split()
    assert found != list(_verify.digests(cases).values())


def test_the_digest_sees_one_bit(monkeypatch):
    plain = _verify.digest("a small image")
    *case, _ = _verify.CASES["a small image"]

    def change(x):
        x[0, 0, 0, 0] = np.nextafter(x[0, 0, 0, 0], np.float32(0))
        return x

    monkeypatch.setitem(_verify.CASES, "a small image", (*case, change))
    assert _verify.digest("a small image") != plain


def test_all_nans_count_as_one():
    nan = np.array([np.nan, 1.0])
    assert _verify.sha256([nan]) == _verify.sha256([np.copysign(nan, [-1.0, 1.0])])
    assert _verify.sha256([nan]) != _verify.sha256([np.array([np.nan, 2.0])])
