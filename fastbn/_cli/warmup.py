"""`warmup`: every kernel that calls of some kind need, compiled ahead."""

import argparse
import os
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import fastbn

from .arguments import DTYPES, Commands, Failed, command, dtypes, names
from .facts import needs_cache, needs_compiler
from .progress import progress

Options = dict[str, Any]

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


def _kernels() -> tuple[int, int]:
    """How many kernels this process has compiled, and how many it has found in the cache."""
    from .._runtime.jit import caches

    return sum(cache.compiled for cache in caches), sum(cache.found for cache in caches)


def _files(directory: Path) -> dict[Path, int]:
    """The cache's files, and when each was written."""
    return {file: file.stat().st_mtime_ns for file in directory.glob("*.kernel")}


def add(commands: Commands) -> None:
    """The command."""
    parser = command(commands, "warmup", run, "compile kernels ahead, for images and CI")
    for option, kind, allowed, default in (
        ("--dtypes", dtypes, DTYPES, "float32,float64"),
        ("--layouts", partial(names, LAYOUTS), LAYOUTS, ",".join(LAYOUTS)),
        ("--passes", partial(names, PASSES), PASSES, ",".join(PASSES)),
    ):
        text = f"some of {','.join(allowed)} (default: {default})"
        parser.add_argument(option, type=kind, default=default, metavar="NAMES", help=text)
    text = f"some of {','.join(FEATURES)}, and their combinations (default: none)"
    kind = partial(names, FEATURES)
    parser.add_argument("--features", type=kind, default=[], metavar="NAMES", help=text)
    parser.add_argument("--tune", action="store_true", help="and then `tune`")


def run(options: argparse.Namespace) -> int:
    """Have every kernel that is asked for in the cache."""
    start, environment = perf_counter(), dict(os.environ)
    # A machine with one processor compiles for those with more; Numba is not imported yet.
    if os.environ.get("NUMBA_NUM_THREADS", "1") == "1":
        os.environ["NUMBA_NUM_THREADS"] = "2"
    needs_compiler()
    fastbn.set_num_threads(2)
    directory = Path(str(fastbn.config_info()["cache_directory"]))
    needs_cache(directory)
    before = _files(directory)
    asked_for = options.dtypes, options.layouts, options.passes, SHAPES
    every = product(*asked_for, _combined(options.features))
    for step in progress([(*kind, *asked) for *kind, asked in every]):
        _call(*step)
        compiled, found = _kernels()
        kept = len(_files(directory).items() - before.items())
        if compiled > kept or compiled + found == 0:
            raise Failed(f"{compiled} kernels compiled, {kept} kept in {directory}")
    seconds = perf_counter() - start
    print(f"{compiled} kernels compiled, {found} found, in {seconds:.1f} s: {directory}")
    if not options.tune:
        return 0
    # With the number of threads that there is, not the one that compiles all.
    return subprocess.run([sys.executable, "-m", "fastbn", "tune"], env=environment).returncode
