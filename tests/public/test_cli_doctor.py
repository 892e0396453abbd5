"""`python -m fastbn doctor`: each check finds what it looks for, and nothing where all is well."""

import json
import os
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
from process import as_root, command, needs_fma, run_python

from fastbn._cli import doctor, facts, findings, main

ABLE = facts.Processor("zen", fuses=True, converts_halves=True)
UNABLE = facts.Processor("generic", fuses=False, converts_halves=False)
# A machine on which nothing is wrong; the tests of each check change what it looks at.
WELL = facts.Facts(
    environment={},
    settings=dict(facts.SETTINGS),
    affinity=8,
    quota=inf,
    cache=Path("/kernels"),
    cache_refuses="",
    cache_is_open=False,
    kernels=90,
    tuned=False,
    far_cache=False,
    layers={"omp": "", "tbb": "libtbb.so.12: cannot open", "workqueue": ""},
    asked_layer="",
    here=ABLE,
    compiled_for=ABLE,
    modern=True,
    emulated=False,
    flushes_subnormals=False,
    huge_pages="always [madvise] never",
    memory=8e9,
    kept=1 << 30,
    outdated=(),
)
NO_OMP = {"omp": "no libgomp", "tbb": "", "workqueue": ""}
NO_LAYER = dict.fromkeys(WELL.layers, "not built")
# Check, what is changed, the level, and words of what is found or of what to do.
FIRES = [
    ("versions", {"outdated": ("numpy>=2.0 (there is 1.26.4)",)}, "wrong", "numpy>=2.0 (there is"),
    ("compiler", {"settings": facts.SETTINGS | {"DISABLE_JIT": 1}}, "wrong", "plain Python"),
    ("compiler", {"settings": facts.SETTINGS | {"BOUNDSCHECK": 1}}, "slow", "NUMBA_BOUNDSCHECK"),
    ("compiler", {"settings": facts.SETTINGS | {"OPT": 0}}, "slow", "unset NUMBA_OPT"),
    (
        "compiler",
        {"settings": facts.SETTINGS | {"DEBUG": 1, "DEBUGINFO_DEFAULT": 1}},
        "slow",
        "unset NUMBA_DEBUG, NUMBA_DEBUGINFO",
    ),
    ("kernel_cache", {"cache_refuses": "Read-only file system"}, "wrong", "set NUMBA_CACHE_DIR"),
    ("kernel_cache", {"cache_is_open": True}, "wrong", "chmod o-w /kernels"),
    ("kernels", {"kernels": 0}, "note", "python -m fastbn warmup"),
    ("kernels", {"kernels": 0, "cache_refuses": "x"}, "note", "files in the cache: 0"),
    ("threading_layer", {"layers": NO_OMP}, "slow", "tbb would be taken"),
    ("threading_layer", {"layers": NO_OMP, "asked_layer": "default"}, "slow", "omp: no libgomp"),
    ("threading_layer", {"layers": NO_LAYER}, "wrong", "install an OpenMP library"),
    ("threading_layer", {"asked_layer": "tbb"}, "wrong", "tbb cannot be loaded (tbb: libtbb"),
    ("threading_layer", {"asked_layer": "safe"}, "wrong", "pip install tbb"),
    ("threading_layer", {"asked_layer": "omg"}, "wrong", "there is no layer 'omg'"),
    ("threads", {"environment": {"OMP_NUM_THREADS": "1"}}, "slow", "OMP_NUM_THREADS=1, where"),
    ("threads", {"environment": {"OMP_NUM_THREADS": "4,2"}}, "slow", "OMP_NUM_THREADS=4"),
    ("threads", {"environment": {"NUMBA_NUM_THREADS": "7"}}, "slow", "unset NUMBA_NUM_THREADS"),
    ("quota", {"quota": 1.5}, "slow", "set OMP_NUM_THREADS=2"),
    ("quota", {"quota": 0.5, "environment": {"OMP_NUM_THREADS": "8"}}, "slow", "THREADS=1"),
    ("processor", {"emulated": True}, "slow", "it is emulated"),
    ("processor", {"modern": False}, "slow", "older than x86-64-v3"),
    ("processor", {"compiled_for": UNABLE}, "note", "compiled for generic, this is zen"),
    ("multiply_add", {"compiled_for": UNABLE}, "wrong", "unset NUMBA_CPU_NAME"),
    ("multiply_add", {"compiled_for": UNABLE, "here": UNABLE}, "wrong", "another machine"),
    ("float16", {"compiled_for": UNABLE}, "slow", "unset NUMBA_CPU_NAME"),
    ("float16", {"compiled_for": UNABLE, "here": UNABLE}, "slow", "use another machine"),
    ("subnormals", {"flushes_subnormals": True}, "wrong", "-ffast-math"),
    ("huge_pages", {"huge_pages": "always madvise [never]"}, "slow", "echo madvise"),
    ("memory", {"memory": 3e8, "kept": 3 << 24}, "slow", "0.3 GB, of which 50 MB may wait"),
    ("tuning", {"far_cache": True}, "note", "python -m fastbn tune"),
]
# What looks like a fault and is none.
IS_WELL = [
    ("threading_layer", {"asked_layer": "workqueue"}),
    ("threading_layer", {"asked_layer": "tbb", "layers": NO_OMP}),
    ("threading_layer", {"asked_layer": "forksafe"}),
    ("threads", {"environment": {"OMP_NUM_THREADS": "8", "NUMBA_NUM_THREADS": "9"}}),
    ("threads", {"environment": {"OMP_NUM_THREADS": "2"}, "quota": 1.5}),
    ("threads", {"environment": {"OMP_NUM_THREADS": "many"}}),
    ("quota", {"quota": 1.5, "environment": {"OMP_NUM_THREADS": "2"}}),
    ("quota", {"quota": 8.0}),
    ("tuning", {"far_cache": True, "tuned": True}),
    ("huge_pages", {"huge_pages": "[always] madvise never"}),
]
NAMES = [check.__name__ for check in findings.CHECKS]


@pytest.mark.parametrize(("check", "changes", "level", "words"), FIRES)
def test_what_is_wrong_is_found(check, changes, level, words):
    finding = getattr(findings, check)(replace(WELL, **changes))
    assert finding.level == level
    assert words in f"{finding.found}\n{finding.remedy}"
    assert bool(finding.remedy) == ("files in the cache" not in words)


@pytest.mark.parametrize("check", NAMES)
def test_nothing_is_found_where_all_is_well(check):
    finding = getattr(findings, check)(WELL)
    assert (finding.level, finding.remedy) == ("ok", "")
    assert finding.found


@pytest.mark.parametrize(("check", "changes"), IS_WELL)
def test_what_looks_like_a_fault_is_none(check, changes):
    assert getattr(findings, check)(replace(WELL, **changes)).level == "ok"


def test_every_check_has_a_fault_that_it_finds():
    assert {check for check, *_ in FIRES} == set(NAMES)


def test_what_a_system_does_not_tell_is_left_out():
    other = replace(WELL, huge_pages="", memory=inf)
    left_out = {name for name, _ in findings.judge(WELL)} - {n for n, _ in findings.judge(other)}
    assert left_out == {"huge pages", "memory"}


def run(capsys, monkeypatch, changes, *arguments):
    """(exit code, what is printed) on a machine that differs from `WELL`."""
    monkeypatch.setattr(facts, "gather", lambda: replace(WELL, **changes))
    return main(["doctor", *arguments]), capsys.readouterr().out


def test_a_line_for_each_check_and_what_to_do(capsys, monkeypatch):
    code, out = run(capsys, monkeypatch, {"huge_pages": "[never]"})
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == len(findings.CHECKS) + 3
    place = next(k for k, line in enumerate(lines) if line.startswith("slow   huge pages"))
    assert lines[place + 1].split("-> ")[1].startswith("echo madvise")
    assert lines[-1] == "nothing is wrong, but some things cost time"


@pytest.mark.parametrize(
    ("changes", "code", "worst", "last"),
    [
        ({}, 0, "ok", "nothing is wrong"),
        ({"kernels": 0}, 0, "note", "nothing is wrong"),
        ({"kernels": 0, "modern": False}, 0, "slow", "nothing is wrong, but some"),
        ({"cache_is_open": True, "modern": False}, 1, "wrong", "something is wrong"),
    ],
)
def test_the_exit_code_is_1_only_if_something_is_wrong(
    changes, code, worst, last, capsys, monkeypatch
):
    found, out = run(capsys, monkeypatch, changes, "--json")
    assert found == code
    assert json.loads(out)["worst"] == worst
    assert [check["check"] for check in json.loads(out)["checks"]] == [
        name.replace("_", " ") for name in NAMES
    ]
    assert run(capsys, monkeypatch, changes)[1].splitlines()[-1].startswith(last)


def test_a_fastbn_that_cannot_start_is_one_line(capsys, monkeypatch):
    def fail():
        raise ImportError("Numba needs NumPy 2.3 or less. Got NumPy 2.4.")

    monkeypatch.setattr(doctor.facts, "gather", fail)
    assert main(["doctor"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m fastbn doctor: fastbn cannot start here: ImportError: Numba")


# --- facts ----------------------------------------------------------------------------------------


def levels(**environment):
    """{check: level} in a process with this environment."""
    process = command("doctor", "--json", **environment)
    assert process.stderr == ""
    found = json.loads(process.stdout)
    assert process.returncode == (found["worst"] == "wrong")
    return {check["check"]: check["level"] for check in found["checks"]}


def test_settings_of_the_environment_are_seen(tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("where the directory should be")
    found = levels(
        NUMBA_CACHE_DIR=str(in_the_way),
        NUMBA_BOUNDSCHECK="1",
        NUMBA_THREADING_LAYER="omg",
    )
    assert found["kernel cache"] == found["threading layer"] == "wrong"
    assert found["compiler"] == "slow"


@as_root
def test_a_cache_in_a_folder_that_cannot_be_entered_is_seen(tmp_path):
    tmp_path.chmod(0o700)
    code = """
import os
from fastbn._cli import facts, findings
facts.gather()  # imports all, which the other user may not be able to read
os.seteuid(65534)
print(findings.kernel_cache(facts.gather()).found)
"""
    assert "(Permission denied)" in run_python(code, NUMBA_CACHE_DIR=str(tmp_path / "kernels"))


def test_an_empty_cache_and_an_interpreter_are_seen(tmp_path):
    found = levels(NUMBA_CACHE_DIR=str(tmp_path), NUMBA_DISABLE_JIT="1")
    assert (found["kernel cache"], found["kernels"], found["compiler"]) == ("ok", "note", "wrong")


GENERIC = """
from fastbn._cli import facts
found = facts.gather()
print(found.compiled_for.name, found.compiled_for.fuses, found.compiled_for.converts_halves)
print(found.here.fuses, found.modern)
"""


@needs_fma
@pytest.mark.skipif(not facts._host()[0].startswith("x86_64"), reason="names are those of x86-64")
def test_a_setting_is_told_from_a_processor():
    out = run_python(GENERIC, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    assert out == "generic False False\nTrue True\n"


def test_a_library_that_flushes_is_seen():
    pytest.importorskip("torch")
    code = "from fastbn._cli import facts\nprint(facts.gather().flushes_subnormals)\n"
    flush = "import torch\ntorch.set_flush_denormal(True)\n"
    assert run_python(code) == "False\n"
    assert run_python(flush + code) == "True\n"


@pytest.mark.skipif(os.name != "posix", reason="no such bit on this system")
def test_a_cache_that_everybody_can_write_to_is_seen(tmp_path):
    tmp_path.chmod(0o777)
    assert facts._is_open(tmp_path)
    tmp_path.chmod(0o775)
    assert not facts._is_open(tmp_path)
    assert not facts._is_open(tmp_path / "missing")


def test_a_cache_is_made_and_left_empty(tmp_path):
    assert facts.cache_refuses(tmp_path / "new" / "cache") == ""
    assert list((tmp_path / "new" / "cache").iterdir()) == []
    (tmp_path / "file").touch()
    assert facts.cache_refuses(tmp_path / "file") == "File exists"


REQUIRES = [
    "numpy>=2.0",
    "numba>=0.61",
    'torch>=2.13; extra == "torch"',
    "dask[array]>=2024.12; extra == 'dask'",
    'openmpi>=5.0.8; (sys_platform != "win32") and extra == "mpi"',
    'pytest>=8; extra == "test"',
    "odd",
]


def test_what_is_older_than_needed_is_named():
    there = {"numpy": "1.26.4", "numba": "0.61.0rc1", "torch": "2.9.1+cpu", "pytest": "7.0"}
    found = list(facts.outdated(REQUIRES, lambda package: there.get(package, "")))
    assert found == ["numpy>=2.0 (there is 1.26.4)", "torch>=2.13 (there is 2.9.1+cpu)"]
    new = dict.fromkeys(("numpy", "numba", "torch", "dask", "openmpi"), "3000")
    assert list(facts.outdated(REQUIRES, lambda package: new.get(package, ""))) == []
    assert list(facts.outdated(["numpy>=2.0"], lambda package: "2")) == []


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "expected"),
    [
        ("x86_64", "model name : AMD EPYC", False),
        ("x86_64", "model name : QEMU Virtual CPU version 2.5+", True),
        ("x86_64", "vendor_id : VirtualApple", True),
        ("aarch64", "vendor_id : AuthenticAMD", True),
        ("aarch64", "CPU implementer : 0x41", False),
        ("x86_64", "vendor_id : GenuineIntel", False),
        ("arm64", "", False),
    ],
)
def test_an_emulated_processor_is_known_by_what_programs_see(machine, cpuinfo, expected):
    assert facts.emulated(machine, cpuinfo) is expected


def test_facts_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "HUGE_PAGES", tmp_path / "enabled")
    assert facts.gather().huge_pages == ""
    (tmp_path / "enabled").write_text("always madvise [never]\n")
    found = facts.gather()
    assert found.huge_pages == "always madvise [never]"
    assert found.affinity >= 1
    assert found.layers.keys() == facts.LAYERS.keys()
    assert found.kept <= found.memory
