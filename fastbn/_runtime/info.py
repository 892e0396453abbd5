"""What fastbn runs on: the caches of the processor, and `config_info`."""

import platform
from functools import cache
from pathlib import Path

from .._version import __version__
from . import cache as kernel_cache
from . import threads


@cache
def last_level_cache() -> int:
    """Bytes of the last-level cache; 32 MB where the system does not say."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) << 10)
    return max(sizes, default=32 << 20)


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
        ``last_level_cache`` : bytes.
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
        "last_level_cache": last_level_cache(),
        "threads": threads.get_num_threads(),
        "threads_from": threads.decided_by(),
        "thread_limits": dict(threads.limits()),
        "threading_layer": _threading_layer(),
        "cache_directory": str(kernel_cache.directory()),
    }
