"""What fastbn runs on: the processor's caches and arithmetic, and `config_info`."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from .._version import DIGEST, ORDER, __version__
from . import cache as kernel_cache
from . import layer, neighbours, threads

# A core with so large a second-level cache has a last level that is far away, and shared with many:
# on 16 cores of an Intel Emerald Rapids (2 MB, and 300 MB for all), data of 13 MB take half as long
# if cut for the second level. With 1 MB, and 32 MB near by, they take 1.2 times as long (AMD EPYC).
FAR_CACHE_L2 = 2 << 20
LEAST_NEAR = 8 << 20  # bytes that count as near even so

_assumed = 0  # bytes, in place of those that are found


@contextmanager
def assume_cache(size: int) -> Iterator[None]:
    """Have the last-level cache hold so many bytes meanwhile, and a core's own a 16th."""
    global _assumed
    before, _assumed = _assumed, size
    try:
        yield
    finally:
        _assumed = before


def last_level_cache() -> int:
    """Bytes of the last-level cache; 32 MB where the system does not say."""
    return _assumed or _caches()[1]


def core_cache() -> int:
    """Bytes of a core's second-level cache; 1 MB where the system does not say."""
    return _assumed // 16 if _assumed else _caches()[0]


def near_caches(threads: int) -> int:
    """Bytes of data that so many threads can count on to be fast when they come again."""
    if core_cache() < FAR_CACHE_L2:
        return last_level_cache()
    return min(last_level_cache(), max(LEAST_NEAR, threads * core_cache()))


@cache
def _caches() -> tuple[int, int]:
    """Bytes of the second level and of the last one."""
    sizes = {}
    for place in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        with suppress(OSError, ValueError):
            level, text = ((place / name).read_text().strip() for name in ("level", "size"))
            if text.endswith("K"):
                sizes[int(level)] = max(sizes.get(int(level), 0), int(text[:-1]) << 10)
    return sizes.get(2, 1 << 20), max(sizes.values(), default=32 << 20)


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
        ``threads`` : of a large call; ``threads_from`` : what decided it; ``thread_limits`` : all
        bounds.
        ``threading_layer`` : Numba's; ``threading_layer_from`` : what chose it.
        ``cache_directory`` : where compiled kernels are kept.
        ``late_launches`` : of a team, which had to wait for a thread; ``alone_for`` : seconds for
        which large calls still compute alone after the last of them.

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
        "threads": threads.get_num_threads(),
        "threads_from": threads.decided_by(),
        "thread_limits": threads.limits() | neighbours.limits(),
        "threading_layer": layer.name(),
        "threading_layer_from": layer.decided_by(),
        "cache_directory": str(kernel_cache.directory()),
        "late_launches": threads.pace.late,
        "alone_for": threads.pace.alone_for(),
    }
