"""What fastbn runs on: the processor's caches and arithmetic, and `config_info`."""

import platform
from functools import cache
from pathlib import Path

from .._version import DIGESTS, ORDER, __version__
from . import cache as kernel_cache
from . import caches, layer, memory, neighbours, threads


@cache
def _assembly(machine: tuple[str, str, str]) -> str:
    """How a processor (triple, name, features) multiplies and adds at once, and converts halves.

    Where it has no instruction, LLVM calls a function of the C library for each number.
    """
    from llvmlite import binding

    triple, name, features = machine
    module = binding.parse_assembly("""
        declare float @llvm.fma.f32(float, float, float)
        define float @f(float %a, float %b, float %c) {
            %d = call float @llvm.fma.f32(float %a, float %b, float %c)
            ret float %d
        }
        define void @g(half* %a, float* %b, half* %c) {
            %d = load half, half* %a
            %e = fpext half %d to float
            %f = load float, float* %b
            %g = fadd float %e, %f
            %h = fptrunc float %g to half
            store half %h, half* %c
            ret void
        }""")
    target = binding.Target.from_triple(triple)
    return target.create_target_machine(cpu=name, features=features).emit_assembly(module)


def fuses(machine: tuple[str, str, str]) -> bool:
    """Whether a processor (triple, name, features) has fused multiply-add."""
    return "fmaf" not in _assembly(machine)


def converts_halves(machine: tuple[str, str, str]) -> bool:
    """Whether a processor has instructions from float16 and back: on x86-64 those of F16C."""
    return not any(name in _assembly(machine) for name in ("hfsf2", "sfhf2", "h2f", "f2h"))


def machine_here() -> tuple[str, str, str]:
    """The processor that kernels are compiled for."""
    from numba.core.registry import cpu_target

    return cpu_target.target_context.codegen().magic_tuple()


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
        ``float16_conversion`` : whether it converts float16 by itself; else arrays are copied.
        ``order``, ``digest``, ``digest_of_options``, ``digest_of_bfloat16`` : the version of the
        order of all sums, and what ``python -m fastbn verify`` gives for it on every processor with
        fused multiply-add: without options, with weights, residual, activation and float16, and
        with bfloat16.
        ``core_cache``, ``last_level_cache`` : bytes.
        ``outgrown`` : bytes of inputs and output from which a pass of so many threads stores past
        the caches and takes ``slab`` bytes of inputs at a time; ``walks_from`` : "formula", or
        "tune" where ``python -m fastbn tune`` has measured this machine.
        ``kept_memory`` : bytes of dropped outputs and of workspaces that are kept for the next
        calls; ``kept_memory_limit`` : the most that they may be.
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
        "fused_multiply_add": fuses(machine_here()),
        "float16_conversion": converts_halves(machine_here()),
        "order": ORDER,
        "digest": DIGESTS["digest"],
        "digest_of_options": DIGESTS["options"],
        "digest_of_bfloat16": DIGESTS["bfloat16"],
        **caches.described(threads.get_num_threads()),
        "kept_memory": memory.kept(),
        "kept_memory_limit": memory.limit() + memory.WORKSPACES,
        "threads": threads.get_num_threads(),
        "threads_from": threads.decided_by(),
        "thread_limits": threads.limits() | neighbours.limits(),
        "threading_layer": layer.name(),
        "threading_layer_from": layer.decided_by(),
        "cache_directory": str(kernel_cache.directory()),
        "late_launches": threads.pace.late,
        "alone_for": threads.pace.alone_for(),
    }
