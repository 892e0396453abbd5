"""What fastbn runs on: the processor's caches and arithmetic, and `config_info`."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from .._version import DIGEST, ORDER, __version__
from . import cache as kernel_cache
from . import memory, threads

_assumed = 0  # bytes, in place of those that are found


@contextmanager
def assume_cache(size: int) -> Iterator[None]:
    """Have `last_level_cache` say so many bytes meanwhile."""
    global _assumed
    before, _assumed = _assumed, size
    try:
        yield
    finally:
        _assumed = before


def last_level_cache() -> int:
    """Bytes of the last-level cache; 32 MB where the system does not say."""
    return _assumed or _found_cache()


@cache
def _found_cache() -> int:
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) << 10)
    return max(sizes, default=32 << 20)


@cache
def fuses(machine: tuple[str, str, str]) -> bool:
    """Whether a processor (triple, name, features) has fused multiply-add.

    Else LLVM calls the C library for each product.
    """
    from llvmlite import binding

    triple, name, features = machine
    module = binding.parse_assembly("""
        declare float @llvm.fma.f32(float, float, float)
        define float @f(float %a, float %b, float %c) {
            %d = call float @llvm.fma.f32(float %a, float %b, float %c)
            ret float %d
        }""")
    target = binding.Target.from_triple(triple)
    assembly = target.create_target_machine(cpu=name, features=features).emit_assembly(module)
    return "fmaf" not in assembly


def _fuses_here() -> bool:
    """Whether the processor that kernels are compiled for has fused multiply-add."""
    from numba.core.registry import cpu_target

    return fuses(cpu_target.target_context.codegen().magic_tuple())


def _cpu() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _threading_layer() -> str:
    """Numba's threading layer: the one in use, else the one that is asked for."""
    import numba
    from numba.core import config

    try:
        return numba.threading_layer()
    except ValueError:
        return f"{config.THREADING_LAYER} (not started)"


def config_info() -> dict[str, object]:
    """Versions, processor, threads and why, threading layer and cache directory.

    Returns
    -------
    dict
        ``fastbn``, ``python``, ``numpy``, ``numba``, ``llvmlite`` : versions.
        ``cpu`` : the processor's name; ``llvm_cpu`` : what kernels are compiled for.
        ``fused_multiply_add`` : whether that processor rounds ``a * b + c`` once, as most do.
        ``order``, ``digest`` : the version of the order of all sums, and what ``python -m fastbn
        verify`` gives for it on every processor with fused multiply-add.
        ``last_level_cache`` : bytes.
        ``kept_memory`` : bytes of dropped outputs and of workspaces that are kept for the next
        calls; ``kept_memory_limit`` : the most that they may be.
        ``threads`` : of a large call; ``threads_from`` : what decided it; ``thread_limits`` : all
        bounds.
        ``threading_layer`` : Numba's; ``cache_directory`` : where compiled kernels are kept.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.config_info()["threads"] == fastbn.get_num_threads()
    True
    """
    import llvmlite.binding
    import numba
    import numpy

    packages = (numpy, numba, llvmlite)
    return {
        "fastbn": __version__,
        **{package.__name__: package.__version__ for package in packages},
        "python": platform.python_version(),
        "cpu": _cpu(),
        "llvm_cpu": numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name(),
        "fused_multiply_add": _fuses_here(),
        "order": ORDER,
        "digest": DIGEST,
        "last_level_cache": last_level_cache(),
        "kept_memory": memory.kept(),
        "kept_memory_limit": memory.limit() + memory.WORKSPACES,
        "threads": threads.get_num_threads(),
        "threads_from": threads.decided_by(),
        "thread_limits": dict(threads.limits()),
        "threading_layer": _threading_layer(),
        "cache_directory": str(kernel_cache.directory()),
    }
