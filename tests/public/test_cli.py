"""`python -m fastbn`, in processes of its own where it compiles or prints what it runs on."""

import io
import json
import os
import platform
import re
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from data import channels_last
from process import command, needs_fma, run_python, stamps

import fastbn
from fastbn._cli import arguments, warmup
from fastbn._cli.progress import progress
from fastbn._kernels import passes


def counts(process):
    """Kernels compiled and found, as `warmup` says."""
    assert process.returncode == 0, process.stderr
    return tuple(
        map(int, re.match(r"(\d+) kernels compiled, (\d+) found", process.stdout).groups())
    )


WARMUP = "warmup", "--dtypes", "float32,float16", "--features", "weights"


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A cache directory that `WARMUP` has filled, and the process that did."""
    directory = tmp_path_factory.mktemp("kernels")
    return directory, command(*WARMUP, NUMBA_CACHE_DIR=str(directory))


# Of what `info` says, what follows from calls that its process has not made.
OF_A_PROCESS = dict.fromkeys(
    ("threading_layer", "threading_layer_from", "kept_memory", "late_launches", "alone_for")
)


def test_info_prints_all_of_config_info(as_started):
    process = command("info")
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    for (name, value), line in zip(fastbn.config_info().items(), lines, strict=True):
        assert line.startswith(name.replace("_", " "))
        if isinstance(value, str | int) and name not in OF_A_PROCESS:
            assert line.endswith(f" {value}")


def test_info_for_machines(as_started):
    found, expected = json.loads(command("info", "--json").stdout), fastbn.config_info()
    assert found | OF_A_PROCESS == expected | OF_A_PROCESS


def test_info_names_the_processor_that_numba_is_told_to_compile_for():
    process = command("info", "--json", NUMBA_CPU_NAME="x86-64-v3")
    assert json.loads(process.stdout)["llvm_cpu"] == "x86-64-v3"


def test_warmup_fills_an_empty_cache(warm):
    directory, process = warm
    assert counts(process) == (len(stamps(directory)), 0)
    assert process.stdout.strip().endswith(str(directory / "fastbn"))
    lines = process.stderr.splitlines()
    assert lines[0] == "1/32 float32 channels_first forward small"
    assert lines[1] == "2/32 float32 channels_first forward small weights"
    assert lines[-1] == "32/32 float16 channels_last backward large weights"


TUNE = """
import sys
from fastbn import _cli, _tune

_tune.SIZES, _tune.ROUNDS = (1 << 18, 1 << 19), 1
sys.exit(_cli.main(sys.argv[1:]))
"""


def test_tune_keeps_what_it_finds(tmp_path):
    def run(*arguments):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        process = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    lines = run("-c", TUNE, "tune").splitlines()
    assert lines[0].startswith("1 threads, forward: outgrown from ")
    assert lines[-1].startswith(f"kept in {tmp_path}")
    found = json.loads(run("-m", "fastbn", "info", "--json"))
    assert found["walks_from"].startswith("tune (tuned-")
    assert len(list(tmp_path.rglob("tuned-*.json"))) == 1


def test_tune_measures_nothing_where_it_cannot_be_kept(tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("where the directory should be")
    process = command("tune", NUMBA_CACHE_DIR=str(in_the_way))
    assert process.returncode == 1
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"python -m fastbn tune: nothing can be kept in {in_the_way}")


CALLS = """
import numpy as np
from data import channels_last
import fastbn

fastbn.set_num_threads(2)
for shape in ((2, 3, 5, 5), (8, 6), (300, 2, 2, 2), (32, 64, 14, 14), (3, 4, 80, 90), (70000, 2)):
    for dtype in (np.float32, np.float16):
        x, mean, var = np.ones(shape, dtype), np.zeros(shape[1]), np.ones(shape[1])
        for given in (x, x[:, ::-1], channels_last(x)):
            given.flags.writeable = False
            y, saved = fastbn.forward(given, np.ones(shape[1]))
            fastbn.backward(y, saved, needs=(True, False, True), out=y)
            fastbn.backward(y, fastbn.forward(given, bias=mean, stats=saved.stats)[1])
            fastbn.batch_norm(given, mean, var, training=True)
            fastbn.batch_norm(y, mean, var, out=y)
            fastbn.normalize(given, fastbn.batch_stats(given))
        bn = fastbn.BatchNorm(None, channel_axis=-1)
        bn.backward(bn(x))
        bn.eval()(x)
        ranks = "spatial_batchnorm" if x.ndim == 4 else "batchnorm"
        parameters = {"mode": "train"}
        seed_forward = getattr(fastbn, ranks + "_forward")
        y, cache = seed_forward(x, var, mean, parameters)
        getattr(fastbn, ranks + "_backward")(y, cache)
        seed_forward(x, var, mean, parameters | {"mode": "test"})
"""


WEIGHTED = """
for shape in ((2, 3, 5, 5), (8, 6), (300, 2, 2, 2), (32, 64, 14, 14), (70000, 2)):
    for dtype in (np.float32, np.float16):
        x, mask = np.ones(shape, dtype), np.arange(shape[0]) > 0
        mask = mask.reshape(-1, *[1] * (len(shape) - 2))
        for given in (x, channels_last(x)):
            y, saved = fastbn.forward(given, weights=mask)
            fastbn.backward(y, saved)
            for kind in (np.float16, np.float32, np.float64, np.int32, np.uint8):
                stats = fastbn.batch_stats(given, weights=mask.astype(kind))
            fastbn.backward(y, fastbn.forward(given, weights=mask, stats=stats)[1])
        bn = fastbn.BatchNorm(None)
        bn.backward(bn(x, weights=mask))
        bn.backward(bn.eval()(x, weights=mask))
"""


def test_warmup_leaves_nothing_to_compile(warm):
    directory, _ = warm
    before = stamps(directory)
    run_python(CALLS + WEIGHTED, NUMBA_CACHE_DIR=str(directory))
    assert before == stamps(directory)


def test_a_second_warmup_finds_all_of_it_for_any_number_of_threads(warm):
    directory, _ = warm
    one = {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    process = command(*WARMUP, NUMBA_CACHE_DIR=str(directory), **one)
    assert counts(process) == (0, len(stamps(directory)))


@pytest.fixture
def steps_of(monkeypatch):
    """A function of a call: the keys of the steps that it has need of, none of which it runs."""
    found = set()

    def note(start, plan, task, more, arguments):
        if start is passes._start_forward:
            arguments[4][...] = 1.0  # statistics
        found.update(passes._keys(plan, task if more is None else task | more.task).values())

    def steps_of(call, *arguments):
        found.clear()
        call(*arguments)
        return set(found)

    monkeypatch.setattr(passes, "_pass", note)
    return steps_of


def user(x, axis, features):
    """What a user of some features may call."""
    positions = np.delete(x.shape, axis)
    beside, applied = {}, {}
    for name in features:
        if name == "weights":
            beside[name] = np.arange(positions.prod()).reshape(positions) % 3
        elif name == "residual":
            beside[name] = x[::-1]
        else:
            applied["activation"] = name
    output = {name: value for name, value in beside.items() if name != "weights"} | applied
    stats = fastbn.batch_stats(x, channel_axis=axis, weights=beside.get("weights"))
    fastbn.normalize(x, stats, channel_axis=axis, **output)
    fastbn.normalize(x, (stats.mean, stats.var()), channel_axis=axis, **output, out=x.copy())
    for fixed, needs in product((None, stats), product((True, False), repeat=3)):
        y, saved = fastbn.forward(x, channel_axis=axis, stats=fixed, **beside, **applied)
        fastbn.backward(y, saved, needs=needs)
    bn = fastbn.BatchNorm(None, channel_axis=axis, **applied)
    for mode in (True, False):
        bn.backward(bn.train(mode)(x, **beside))


@pytest.mark.parametrize("dtype", arguments.DTYPES)
@pytest.mark.parametrize("features", warmup._combined(warmup.FEATURES), ids="+".join)
def test_warmup_with_features_leaves_no_step_to_compile(features, dtype, steps_of):
    every = product(
        [dtype], warmup.LAYOUTS, warmup.PASSES, warmup.SHAPES, warmup._combined(features)
    )
    warmed = set().union(*(steps_of(warmup._call, *names, *asked) for *names, asked in every))
    used = set()
    for shape in ((2, 3, 5, 5), (8, 6), (300, 2, 2, 2), (32, 64, 14, 14), (3, 4, 80, 90)):
        x = np.ones(shape, dtype)
        for given, axis in ((x, 1), (channels_last(x), 1), (x, -1)):
            used |= steps_of(user, given, axis, features)
    assert used <= warmed


def test_warmup_compiles_no_feature_that_was_not_asked_for(steps_of):
    names = "float32", "channels_first", "backward", "small"
    for features in ((), ("relu",), ("residual", "weights")):
        keys = steps_of(warmup._call, *names, *features)
        assert any(key.weighted for key in keys) == ("weights" in features)
        assert any(key.residual for key in keys) == ("residual" in features)
        applied = {key.activation.name.lower() for key in keys} - {"none"}
        assert applied == set(features) - {"residual", "weights"}


class Terminal(io.StringIO):
    def isatty(self):
        return True


STEPS = [("float32", "small"), ("float32", "large")]


def drawn(monkeypatch):
    """What a terminal gets to see of the progress through `STEPS`."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress(STEPS)) == STEPS
    return sys.stderr.getvalue()


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    pytest.importorskip("rich")
    text = drawn(monkeypatch)
    assert "float32 large" in text
    assert "━" in text
    assert "2/2" not in text


def test_without_rich_there_is_a_line_for_each_step(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    assert drawn(monkeypatch) == "1/2 float32 small\n2/2 float32 large\n"


@needs_fma
def test_verify_agrees():
    process = command("verify", "--cases")
    assert process.returncode == 0, process.stdout + process.stderr
    *cases, order, digest, options, bfloat16, verdict = process.stdout.splitlines()
    assert len(cases) > 50
    info = fastbn.config_info()
    assert order == f"order     {info['order']}"
    assert digest == f"digest    {info['digest']}"
    assert options == f"options   {info['digest_of_options']}"
    assert bfloat16 == f"bfloat16  {info['digest_of_bfloat16']}"
    assert verdict.startswith("agrees")


# One case, whose digest is not that of all.
VERIFY = """
from fastbn import _cli, _verify

found = _verify.digests(["a small image"])
_verify.digests = lambda names: found
print(_cli.main(["verify"]))
"""
FLUSH = "import torch\ntorch.set_flush_denormal(True)\n"


@needs_fma
def test_verify_knows_no_reason_for_other_bits():
    text = run_python(VERIFY)
    assert f"expected  {fastbn.config_info()['digest']}\ndiffers" in text
    assert "No reason is known" in text
    assert text.endswith("\n1\n")


def test_verify_sees_that_nothing_is_fused():
    info = fastbn.config_info()
    if info["fused_multiply_add"] and platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("no processor without fused multiply-add to compile for")
    text = run_python(VERIFY, NUMBA_CPU_NAME="generic")
    assert "for generic without fused multiply-add" in text


def test_verify_sees_that_subnormals_are_flushed():
    pytest.importorskip("torch")
    text = run_python(FLUSH + VERIFY)
    assert "flushes subnormal numbers" in text
    kept = run_python(VERIFY).splitlines()[1]
    assert kept.startswith("digest")
    assert kept not in text


def test_verify_agrees_without_a_compiler():
    process = command("verify", NUMBA_DISABLE_JIT="1")
    assert process.returncode == 0, process.stdout + process.stderr
    assert "small cases without a compiler" in process.stdout
    assert "agrees" in process.stdout
    assert process.stderr.startswith("1/3 digest\n2/3 options\n")


# Stands for the kernels, which take seconds.
TINY = """
import warnings
from fastbn import _cli
from fastbn._cli import warmup
from fastbn._runtime import jit

@jit.kernel
def tiny(n):
    return n + 1

warmup.PASSES["forward"] = lambda x, axis, options: tiny(axis)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    code = _cli.main(["warmup", "--dtypes", "float32", "--passes", "forward"])
print(code, *(warning.category.__name__ for warning in caught))
"""


def test_kernels_that_cannot_be_kept_fail_the_warmup(tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("where the directory should be")
    assert run_python(TINY, NUMBA_CACHE_DIR=str(tmp_path / "kernels")).endswith("\n0\n")
    assert run_python(TINY, NUMBA_CACHE_DIR=str(in_the_way)) == "1\n"  # nothing is compiled
    late = TINY.replace("with warn", "warmup.needs_cache = lambda directory: None\nwith warn")
    assert run_python(late, NUMBA_CACHE_DIR=str(in_the_way)) == "1 RuntimeWarning\n"
