"""`info`, `tune` and `verify`: this machine, the use of its caches, and whether its bits agree."""

import argparse
import json
from importlib.util import find_spec
from time import perf_counter

import fastbn

from .._version import DIGESTS, ORDER, TINY_DIGESTS
from .arguments import Commands, command
from .facts import flushes_subnormals, needs_cache, needs_compiler
from .progress import progress


def add_info(commands: Commands) -> None:
    """The command."""
    parser = command(commands, "info", info, "versions, processor, threads and why, kernel cache")
    parser.add_argument("--json", action="store_true", help="for machines")


def add_tune(commands: Commands) -> None:
    """The command."""
    command(commands, "tune", tune, "measure how this machine's caches are best used, and keep it")


def add_verify(commands: Commands) -> None:
    """The command."""
    text = "whether this machine gives the bits of all others"
    parser = command(commands, "verify", verify, text)
    parser.add_argument("--cases", action="store_true", help="print the digest of each case, too")


def info(options: argparse.Namespace) -> int:
    """Print `fastbn.config_info`."""
    found = fastbn.config_info()
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {bound}" for key, bound in value.items())
        print(f"{name.replace('_', ' '):22}{value}")
    return 0


def tune(options: argparse.Namespace) -> int:
    """Measure from which size on data outgrow this machine's caches, and keep it."""
    from .. import _tune
    from .._runtime import caches

    needs_compiler()
    start, place = perf_counter(), caches.file()
    needs_cache(place.parent)
    _tune.tune(lambda line: print(line, flush=True))
    print(f"kept in {place}, {perf_counter() - start:.1f} s")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Compare this machine's bits with those of all others."""
    from .. import _verify
    from .._runtime.jit import INTERPRETED

    start = perf_counter()
    # Without a compiler Python takes hours for all cases.
    expected = TINY_DIGESTS if INTERPRETED else DIGESTS
    groups = _verify.TINY if INTERPRETED else _verify.GROUPS
    which = ", of small cases without a compiler" if INTERPRETED else ""
    lines, differs = [f"order     {ORDER}"], None
    for (name,) in progress([(name,) for name in groups]):
        if name == "bfloat16" and find_spec("ml_dtypes") is None:
            lines.append(f"{name:10}not looked at: no package ml_dtypes")
            continue
        digests = _verify.digests(groups[name])
        found = _verify.total(digests)
        lines.append(f"{name:10}{found}{which}")
        if found != expected[name] and differs is None:
            differs = expected[name]
        if options.cases:
            for case, value in digests.items():
                print(f"{value[:16]}  {case}", flush=True)
    print("\n".join(lines))
    if differs is None:
        seconds, threads = perf_counter() - start, fastbn.get_num_threads()
        print(f"agrees: the bits of every processor, threads: {threads}, {seconds:.1f} s")
        return 0
    print(f"expected  {differs}\ndiffers from other processors\n{_reason(INTERPRETED)}")
    return 1


def _reason(interpreted: bool) -> str:
    """Why bits differ, as far as this process can see."""
    facts = fastbn.config_info()
    if flushes_subnormals():
        return (
            "This process flushes subnormal numbers to zero: torch.set_flush_denormal, or a "
            "library that was built with -ffast-math."
        )
    if not (interpreted or facts["fused_multiply_add"]):
        return (
            f"Kernels are compiled for {facts['llvm_cpu']} without fused multiply-add: last digits "
            "differ."
        )
    return "No reason is known. Please report this, with what `python -m fastbn info` says."
