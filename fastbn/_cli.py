"""The command line: `python -m fastbn info | warmup | tune | verify | bench`."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import fastbn

from ._version import DIGESTS, ORDER, TINY_DIGESTS

TURN = 0.02  # seconds that a call repeats: threads of the one before fall asleep meanwhile
# Arrays of x's size that a call reads or writes at least once.
MOVED = {"forward": 2, "backward": 3, "evaluation": 2}
Calls = dict[str, Callable[[], object]]
Options = dict[str, Any]

DTYPES = ("float16", "bfloat16", "float32", "float64")
LAYOUTS = {"channels_first": 1, "channels_last": -1}  # name: channel axis
FEATURES = ("weights", "residual", "relu", "leaky_relu")
WEIGHTS = (np.bool_, np.float32, np.float64)  # others are converted to these
# Long runs, short runs and rows, for one thread and for a team: every way that a call can be cut.
SHAPES = {
    "small": ((4, 8, 6, 6), (16, 8, 3, 3), (32, 100)),
    "large": ((16, 64, 32, 32), (64, 64, 7, 7), (4096, 64)),
}


def _combined(features: list[str]) -> list[tuple[str, ...]]:
    """None of the features, each, and all combinations; of activations, a call has one."""
    plain = [name for name in ("weights", "residual") if name in features]
    applied = [(), *((name,) for name in features if name not in plain)]
    subsets = product(*([(), (name,)] for name in plain))
    return [sum((*subset, last), ()) for subset in subsets for last in applied]


def _options(features: tuple[str, ...], x: np.ndarray, axis: int) -> Options:
    """The arguments of `fastbn.forward` that ask for features."""
    arrays = {"weights": np.ones(np.delete(x.shape, axis), np.float32), "residual": x}
    options: Options = {name: array for name, array in arrays.items() if name in features}
    activations = [name for name in features if name not in arrays]
    return options | ({"activation": activations[0]} if activations else {})


def _forward(x: np.ndarray, axis: int, options: Options) -> None:
    """Every public function that normalises or takes statistics."""
    weight, bias = np.ones((2, x.shape[axis]), np.float32)
    output = {name: value for name, value in options.items() if name != "weights"}
    stats = fastbn.batch_stats(x, channel_axis=axis, weights=options.get("weights"))
    for parameters in ({}, {"weight": weight, "bias": bias}):
        fastbn.forward(x, **parameters, channel_axis=axis, **options)
        fastbn.forward(x, **parameters, channel_axis=axis, stats=stats, **options)
        fastbn.normalize(x, stats, **parameters, channel_axis=axis, **output)
        for training, dtype in product((True, False), (np.float32, np.float64)):
            mean, var = np.ones((2, x.shape[axis]), dtype)
            fastbn.batch_norm(x, mean, var, **parameters, training=training, channel_axis=axis)


def _backward(x: np.ndarray, axis: int, options: Options) -> None:
    """Gradients with the batch's statistics and with fixed ones."""
    for stats in (None, fastbn.batch_stats(x, channel_axis=axis)):
        y, saved = fastbn.forward(x, channel_axis=axis, stats=stats, **options)
        fastbn.backward(y, saved)
    layer = fastbn.BatchNorm(x.shape[axis], channel_axis=axis, dtype=saved.layout.compute)
    layer.backward(layer(x))


PASSES = {"forward": _forward, "backward": _backward}


def _call(dtype: str, layout: str, name: str, size: str, *features: str) -> None:
    """Call a pass for shapes of a size."""
    axis = LAYOUTS[layout]
    for shape in SHAPES[size]:
        x = np.ascontiguousarray(np.moveaxis(np.ones(shape, dtype), 1, axis))
        options = _options(features, x, axis)
        PASSES[name](x, axis, options)
        if "weights" in features:
            mask = options["weights"].astype(np.bool_)  # which has kernels of its own
            PASSES[name](x, axis, options | {"weights": mask})
            for kind in WEIGHTS:
                fastbn.batch_stats(x, channel_axis=axis, weights=mask.astype(kind))


def _progress(steps: list[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Pass the steps on, with a bar where there are a terminal and rich, else with a line each."""
    if sys.stderr.isatty() and find_spec("rich"):
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=len(steps))
            for step in steps:
                bar.update(task, description=" ".join(step))
                yield step
                bar.advance(task)
        return
    for i, step in enumerate(steps, 1):
        print(f"{i}/{len(steps)}", *step, file=sys.stderr, flush=True)
        yield step


def _kernels() -> tuple[int, int]:
    """How many kernels this process has compiled, and how many it has found in the cache."""
    from ._runtime.jit import caches

    return sum(cache.compiled for cache in caches), sum(cache.found for cache in caches)


def _files(directory: Path) -> dict[Path, int]:
    """The cache's files, and when each was written."""
    return {file: file.stat().st_mtime_ns for file in directory.glob("*.kernel")}


def warmup(
    dtypes: list[str],
    layouts: list[str],
    passes: list[str],
    features: list[str],
    tune_too: bool,
) -> int:
    """Have every kernel that is asked for in the cache; the exit code."""
    start, environment = perf_counter(), dict(os.environ)
    # A machine with one processor compiles for those with more; Numba is not imported yet.
    if os.environ.get("NUMBA_NUM_THREADS", "1") == "1":
        os.environ["NUMBA_NUM_THREADS"] = "2"
    fastbn.set_num_threads(2)
    directory = Path(str(fastbn.config_info()["cache_directory"]))
    before = _files(directory)
    every = product(dtypes, layouts, passes, SHAPES, _combined(features))
    for step in _progress([(*names, *asked) for *names, asked in every]):
        _call(*step)
        compiled, found = _kernels()
        kept = len(_files(directory).items() - before.items())
        if compiled > kept or compiled + found == 0:
            print(f"{compiled} kernels compiled, {kept} kept in {directory}", file=sys.stderr)
            return 1
    seconds = perf_counter() - start
    print(f"{compiled} kernels compiled, {found} found, in {seconds:.1f} s: {directory}")
    if not tune_too:
        return 0
    # With the number of threads that there is, not the one that compiles all.
    return subprocess.run([sys.executable, "-m", "fastbn", "tune"], env=environment).returncode


def tune() -> int:
    """Measure from which size on data outgrow this machine's caches, and keep it; the exit code."""
    from . import _tune
    from ._runtime import caches

    start = perf_counter()
    try:
        _tune.tune(lambda line: print(line, flush=True))
    except OSError as error:
        print(f"what was measured cannot be kept in {caches.file().parent} ({error})")
        return 1
    print(f"kept in {caches.file()}, {perf_counter() - start:.1f} s")
    return 0


def info(as_json: bool) -> None:
    """Print `fastbn.config_info`."""
    found = fastbn.config_info()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {bound}" for key, bound in value.items())
        print(f"{name.replace('_', ' '):22}{value}")


def _flushes_subnormals() -> bool:
    """Whether this thread takes numbers next to zero for zero."""
    return float("5e-324") * 1.0 == 0.0  # read now: the compiler of Python may not flush


def verify(cases: bool) -> int:
    """Compare this machine's bits with those of all others; the exit code."""
    from . import _verify
    from ._runtime.jit import INTERPRETED

    start, facts = perf_counter(), fastbn.config_info()
    # Without a compiler Python takes hours for all cases.
    expected = TINY_DIGESTS if INTERPRETED else DIGESTS
    groups = _verify.TINY if INTERPRETED else _verify.GROUPS
    which = ", of small cases without a compiler" if INTERPRETED else ""
    lines, differs = [f"order     {ORDER}"], None
    for name, members in groups.items():
        if name == "bfloat16" and find_spec("ml_dtypes") is None:
            lines.append(f"{name:10}not looked at: no package ml_dtypes")
            continue
        digests = _verify.digests(members)
        found = _verify.total(digests)
        lines.append(f"{name:10}{found}{which}")
        if found != expected[name] and differs is None:
            differs = expected[name]
        if cases:
            for case, value in digests.items():
                print(f"{value[:16]}  {case}", flush=True)
    print("\n".join(lines))
    if differs is None:
        seconds = perf_counter() - start
        print(f"agrees: the bits of every processor, threads: {facts['threads']}, {seconds:.1f} s")
        return 0
    print(f"expected  {differs}\ndiffers from other processors")
    if _flushes_subnormals():
        print(
            "This process flushes subnormal numbers to zero: torch.set_flush_denormal, or a "
            "library that was built with -ffast-math."
        )
    elif not (INTERPRETED or facts["fused_multiply_add"]):
        print(
            f"Kernels are compiled for {facts['llvm_cpu']} without fused multiply-add: last digits "
            "differ."
        )
    else:
        print("No reason is known. Please report this, with what `python -m fastbn info` says.")
    return 1


def _calls_of_fastbn(x: np.ndarray, dy: np.ndarray, axis: int) -> Calls:
    saved = fastbn.forward(x, channel_axis=axis)[1]  # which checks the axis
    weight, bias, mean, var = np.ones((4, x.shape[axis]), saved.layout.compute)
    return {
        "forward": lambda: fastbn.forward(x, weight, bias, channel_axis=axis),
        "backward": lambda: fastbn.backward(dy, saved),
        "evaluation": lambda: fastbn.batch_norm(x, mean, var, weight, bias, channel_axis=axis),
    }


def _calls_of_copy(x: np.ndarray, dy: np.ndarray, axis: int) -> Calls:
    """Copies that read and write as many bytes as the operation."""
    return {name: np.ones(n * x.nbytes // 2, np.uint8).copy for name, n in MOVED.items()}


def _calls_of_torch(x: np.ndarray, dy: np.ndarray, axis: int) -> Calls:
    """The operators beneath PyTorch's layers, on the same memory."""
    import torch

    torch.set_num_threads(fastbn.get_num_threads())
    # It takes no bfloat16 from NumPy.
    words = [a.view(np.uint16) if a.dtype.name == "bfloat16" else a for a in (x, dy)]
    xt, dyt = (
        torch.from_numpy(np.moveaxis(a, axis, 1)).view(getattr(torch, x.dtype.name)) for a in words
    )
    kind = torch.float64 if x.dtype == np.float64 else torch.float32
    weight, bias, mean, var = torch.ones((4, xt.shape[1]), dtype=kind)

    def forward(training=True):
        return torch.native_batch_norm(xt, weight, bias, mean, var, training, 0.0, 1e-5)

    saved = forward()[1:]
    backward = torch.ops.aten.native_batch_norm_backward
    given = dyt, xt, weight, mean, var, *saved, True, 1e-5, [True] * 3
    return {
        "forward": forward,
        "backward": lambda: backward(*given),
        "evaluation": lambda: forward(training=False),
    }


def _in_turn(calls: list[Callable[[], object]], seconds: float) -> list[list[float]]:
    """Seconds of every repeat of each call, in turns: what slows the machine slows them all."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()  # compiles
    stop = perf_counter() + seconds
    while not times[0] or perf_counter() < stop:
        for call, found in zip(calls, times, strict=True):
            before = start = perf_counter()
            while before < start + TURN:
                call()
                now = perf_counter()
                found.append(now - before)
                before = now
    return times


def bench(
    shape: tuple[int, ...], dtype: str, channel_axis: int, threads: int | None, seconds: float
) -> None:
    """Print a table of times, each of a call that allocates its output."""
    if threads is not None:
        fastbn.set_num_threads(threads)
    x, dy = np.random.default_rng(0).standard_normal((2, *shape)).astype(dtype)
    libraries = {"fastbn": _calls_of_fastbn, "NumPy's copy": _calls_of_copy}
    if find_spec("torch"):
        libraries["PyTorch"] = _calls_of_torch
    made = {name: make(x, dy, channel_axis) for name, make in libraries.items()}
    rows = [(operation, library) for operation in MOVED for library in libraries]
    times = _in_turn([made[library][operation] for operation, library in rows], seconds)

    info = fastbn.config_info()
    print(f"{shape} {dtype}, {x.nbytes / 1e6:.3g} MB, channel axis {channel_axis}")
    print(f"{info['cpu']}, threads: {info['threads']}\n")
    print(f"{'operation':12}{'library':14}{'least us':>12}{'median us':>12}{'GB/s':>8}")
    for (operation, library), found in zip(rows, times, strict=True):
        speed = MOVED[operation] * x.nbytes / min(found) / 1e9
        figures = f"{1e6 * min(found):12,.1f}{1e6 * median(found):12,.1f}{speed:8.1f}"
        print(f"{operation:12}{library:14}{figures}")
    print("\nGB/s of what a call has to read and write at least; the copy moves as many bytes.")


def _names(allowed, text: str) -> list[str]:
    """A comma-separated list of names, each once."""
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in allowed:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(allowed)}")
    return names


def _dtype(name: str) -> str:
    """A name of a dtype, which NumPy knows from here on."""
    if name == "bfloat16":
        try:
            import ml_dtypes  # noqa: F401
        except ImportError:
            raise argparse.ArgumentTypeError("bfloat16 needs the package ml_dtypes") from None
    return name


def _dtypes(text: str) -> list[str]:
    """Names of dtypes, comma-separated."""
    return [_dtype(name) for name in _names(DTYPES, text)]


def _shape(text: str) -> tuple[int, ...]:
    """Comma-separated lengths of axes."""
    try:
        shape = tuple(int(length) for length in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) < 2 or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not two or more positive lengths: 32,64,7,7")
    return shape


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fastbn", description=fastbn.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    show = commands.add_parser("info", help="versions, processor, threads and why, kernel cache")
    show.add_argument("--json", action="store_true", help="for machines")

    ahead = commands.add_parser("warmup", help="compile kernels ahead, for images and CI")
    for option, kind, allowed, default in (
        ("--dtypes", _dtypes, DTYPES, "float32,float64"),
        ("--layouts", partial(_names, LAYOUTS), LAYOUTS, ",".join(LAYOUTS)),
        ("--passes", partial(_names, PASSES), PASSES, ",".join(PASSES)),
    ):
        text = f"some of {','.join(allowed)} (default: {default})"
        ahead.add_argument(option, type=kind, default=default, help=text)
    text = f"some of {','.join(FEATURES)}, and their combinations (default: none)"
    ahead.add_argument("--features", type=partial(_names, FEATURES), default=[], help=text)
    ahead.add_argument("--tune", dest="tune_too", action="store_true", help="and then `tune`")

    commands.add_parser("tune", help="measure how this machine's caches are best used, and keep it")

    check = commands.add_parser("verify", help="whether this machine gives the bits of all others")
    check.add_argument("--cases", action="store_true", help="print the digest of each case, too")

    look = commands.add_parser("bench", help="time one shape beside a plain copy and PyTorch")
    look.add_argument("--shape", type=_shape, default="32,64,56,56", help="default: %(default)s")
    look.add_argument("--dtype", type=_dtype, choices=DTYPES, default="float32")
    look.add_argument("--channel-axis", type=int, default=1, help="default: %(default)s")
    look.add_argument("--threads", type=int, help="default: as `info` says")
    look.add_argument("--seconds", type=float, default=3.0, help="default: %(default)s")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0, 1 for what it finds to be wrong, 2 for arguments that make no sense."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    command = options.pop("command")
    if command == "warmup":
        return warmup(**options)
    if command == "verify":
        return verify(**options)
    if command == "tune":
        return tune()
    if command == "info":
        info(options["json"])
        return 0
    try:
        bench(**options)
    except (ValueError, MemoryError) as error:  # of fastbn's checks: axis, threads, values
        parser.error(str(error))
    return 0
