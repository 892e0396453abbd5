"""What `doctor` judges by: facts of this process and its machine, gathered once.

What a system does not tell is empty or infinite, and nothing is said about it.
"""

import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from math import inf
from pathlib import Path

from .arguments import Failed

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
CPUINFO = Path("/proc/cpuinfo")
# Numba's threading layers in the order in which fastbn tries them, and their files.
LAYERS = {"omp": "omppool", "tbb": "tbbpool", "workqueue": "workqueue"}
# Of Numba, and what each is where nobody has set it.
SETTINGS = {"DISABLE_JIT": 0, "BOUNDSCHECK": None, "DEBUG": 0, "DEBUGINFO_DEFAULT": 0, "OPT": 3}
V3 = ("avx2", "bmi2", "fma")  # features of x86-64-v3 that older processors do not have
EMULATORS = ("QEMU", "VirtualApple")  # in a processor's name
EXTRAS = ("torch", "dask", "mpi", "sklearn")  # of fastbn, whose libraries adapters call
PROBE = 1 << 16  # bytes; a kernel's file has about as many


@dataclass(frozen=True)
class Processor:
    """A kind of processor: the one there is, or the one that kernels are compiled for."""

    name: str  # as LLVM has it
    fuses: bool  # fused multiply-add
    converts_halves: bool


@dataclass(frozen=True)
class Facts:
    """Of the process that asks."""

    environment: dict[str, str]
    settings: dict[str, object]  # Numba's, by the names in `SETTINGS`
    affinity: int
    quota: float  # CPUs that the control groups grant
    cache: Path
    cache_refuses: str  # why nothing can be kept in it
    cache_is_open: bool  # everybody can write to it
    kernels: int  # files in it
    tuned: bool
    far_cache: bool  # where the formula is the least certain, and `tune` knows more
    layers: dict[str, str]  # why each cannot be loaded
    asked_layer: str  # what the user has told Numba to take, in lower case
    here: Processor
    compiled_for: Processor
    modern: bool  # x86-64-v3 or newer, or of another family
    emulated: bool
    flushes_subnormals: bool
    huge_pages: str  # what the system says
    memory: float  # bytes that the machine or the control group grants
    kept: int  # bytes of dropped outputs that fastbn may keep of it
    outdated: tuple[str, ...]  # packages, each with what is needed


def gather() -> Facts:
    """The facts of this process."""
    import numba

    from .._runtime import bounds, cache, caches, layer, memory

    directory = cache.directory()
    return Facts(
        environment=dict(os.environ),
        settings={name: getattr(numba.config, name, usual) for name, usual in SETTINGS.items()},
        affinity=bounds._affinity(),
        quota=bounds._cgroup_quota(),
        cache=directory,
        cache_refuses=cache_refuses(directory),
        cache_is_open=_is_open(directory),
        kernels=_kernels(directory),
        tuned=caches.tuned() is not None,
        far_cache=caches.of_core() >= caches.FAR_CACHE_L2,
        layers={name: _cannot_load(f"numba.np.ufunc.{file}") for name, file in LAYERS.items()},
        asked_layer=str(numba.config.THREADING_LAYER).lower() if layer._users() else "",
        here=_processor(_host()),
        compiled_for=_compiled_for(),
        modern=_modern(),
        emulated=emulated(platform.machine(), _text(CPUINFO)),
        flushes_subnormals=flushes_subnormals(),
        huge_pages=_text(HUGE_PAGES),
        memory=granted(),
        kept=memory.limit(),
        outdated=tuple(outdated(_requirements(), _installed)),
    )


def cache_refuses(directory: Path) -> str:
    """Why nothing can be kept in a directory, which is made if it is missing; empty if it can."""
    from .._runtime import cache

    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(bytes(PROBE))
    except OSError as error:
        return error.strerror or str(error)
    return "" if cache._source_digest() else "fastbn has no source there to tell versions apart by"


def needs_cache(directory: Path) -> None:
    """Fail where nothing can be kept: at once, and not after minutes of work."""
    refused = cache_refuses(directory)
    if refused:
        raise Failed(f"nothing can be kept in {directory} ({refused})")


def needs_compiler() -> None:
    """Fail where kernels run as plain Python."""
    from .._runtime.jit import INTERPRETED

    if INTERPRETED:
        raise Failed("nothing is compiled with NUMBA_DISABLE_JIT=1, so there is nothing to do")


def flushes_subnormals() -> bool:
    """Whether this thread takes numbers next to zero for zero."""
    return float("5e-324") * 1.0 == 0.0  # read now: the compiler of Python may not flush


def _kernels(directory: Path) -> int:
    """How many there are, as far as this user can see."""
    with suppress(OSError):
        return len(list(directory.glob("*.kernel")))
    return 0


def _is_open(directory: Path) -> bool:
    """Whether everybody can write there, on systems that have such a bit."""
    with suppress(OSError):
        return os.name == "posix" and bool(directory.stat().st_mode & 0o002)
    return False


def _cannot_load(module: str) -> str:
    """Why a module cannot be imported; empty if it can."""
    try:
        import_module(module)
    except ImportError as error:
        return str(error).splitlines()[0]
    return ""


def _text(file: Path) -> str:
    """What the system says in a file; empty where it has none."""
    with suppress(OSError):
        return file.read_text().strip()
    return ""


def granted() -> float:
    """Bytes of memory that the machine or the control group has; infinite if it is not known."""
    from .._runtime import memory

    return memory.limit() * memory.SHARE if hasattr(os, "sysconf") else inf


def _features() -> dict[str, bool]:
    """What the processor has; empty where LLVM cannot tell."""
    from llvmlite import binding

    with suppress(RuntimeError):
        return dict(binding.get_host_cpu_features())
    return {}


def _host() -> tuple[str, str, str]:
    """The processor here, as `info.machine_here` names the one that kernels are compiled for."""
    from llvmlite import binding

    from .._runtime import info

    features = (f"{'+' if there else '-'}{name}" for name, there in _features().items())
    return info.machine_here()[0], binding.get_host_cpu_name(), ",".join(features)


def _processor(machine: tuple[str, str, str]) -> Processor:
    from .._runtime import info

    return Processor(machine[1], info.fuses(machine), info.converts_halves(machine))


def _compiled_for() -> Processor:
    from .._runtime import info

    return _processor(info.machine_here())


def _modern() -> bool:
    """Whether this is no old x86-64, as far as is known."""
    features = _features()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return not (x86 and features) or all(features.get(name) for name in V3)


def emulated(machine: str, cpuinfo: str) -> bool:
    """Whether another processor stands in for the one that programs see.

    An emulator of single programs shows them the system's own list of processors.
    """
    foreign = "GenuineIntel" in cpuinfo or "AuthenticAMD" in cpuinfo
    named = any(name in cpuinfo for name in EMULATORS)
    return named or (foreign and machine.lower() in ("aarch64", "arm64"))


# --- versions -------------------------------------------------------------------------------------


def _requirements() -> list[str]:
    """What fastbn's own metadata ask for; nothing where it is not installed."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.requires("fastbn") or []
    return []


def _installed(package: str) -> str:
    """The version of a package; empty if it is not there."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return ""


def outdated(requirements: Iterable[str], installed: Callable[[str], str]) -> Iterator[str]:
    """What is older than fastbn or an adapter needs: the least version, and the one there is."""
    for requirement in requirements:
        match = re.match(r"([\w.-]+)(?:\[.*?\])?>=([\d.]+)", requirement)
        extra = re.search(r"extra == ['\"](\w+)", requirement)
        if match and (extra is None or extra[1] in EXTRAS):
            package, least = match.groups()
            found = installed(package)
            if found and _numbers(found) < _numbers(least):
                yield f"{package}>={least} (there is {found})"


def _numbers(version: str) -> list[int]:
    """A version's numbers: [2, 13] of 2.13.0+cpu, as of 2.13."""
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in found[0].split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers
