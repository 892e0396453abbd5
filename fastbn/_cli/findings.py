"""What `doctor` looks at: a function each, from facts to a finding and what to do about it.

A finding is *ok*; a *note*, which is no fault; *slow*, which costs time and nothing else; or
*wrong*, which gives other bits, compiles in vain, or fails.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .._runtime.memory import WARM
from .facts import LAYERS, SETTINGS, Facts

OK, NOTE, SLOW, WRONG = "ok", "note", "slow", "wrong"
KINDS = {  # of threading layers that Numba may be asked for, in fastbn's order
    "default": tuple(LAYERS),
    "safe": ("tbb",),
    "threadsafe": ("tbb", "omp"),
    "forksafe": ("tbb", "workqueue"),
}
GET_OMP = "install an OpenMP library: libgomp1 on Debian and Ubuntu, libomp on macOS"
GET_TBB = "pip install tbb, and have the loader find it (LD_LIBRARY_PATH=<prefix>/lib)"


class Finding(NamedTuple):
    """What was found, and what to do."""

    level: str
    found: str
    remedy: str = ""


def versions(facts: Facts) -> Finding:
    """Packages that are older than fastbn needs."""
    if facts.outdated:
        return Finding(WRONG, f"older than needed: {', '.join(facts.outdated)}", "pip install -U")
    return Finding(OK, "no package is older than needed")


def compiler(facts: Facts) -> Finding:
    """Whether there is one, and whether its settings are those of production."""
    changed = [name for name, usual in SETTINGS.items() if facts.settings[name] != usual]
    remedy = "unset " + ", ".join(f"NUMBA_{name.removesuffix('_DEFAULT')}" for name in changed)
    if facts.settings["DISABLE_JIT"]:
        return Finding(WRONG, "kernels run as plain Python, thousands of times as long", remedy)
    if changed:
        return Finding(SLOW, "Numba is set to check, to debug or not to optimise", remedy)
    return Finding(OK, "Numba compiles, with its usual settings")


def kernel_cache(facts: Facts) -> Finding:
    """Whether kernels can be kept, and nobody else puts some there."""
    if facts.cache_refuses:
        return Finding(
            WRONG,
            f"nothing can be kept in {facts.cache} ({facts.cache_refuses}): each process compiles",
            "set NUMBA_CACHE_DIR to a directory that can be written to",
        )
    if facts.cache_is_open:
        return Finding(
            WRONG,
            f"everybody can write to {facts.cache}, and kernels are code",
            f"chmod o-w {facts.cache}",
        )
    return Finding(OK, f"kernels are kept in {facts.cache}")


def kernels(facts: Facts) -> Finding:
    """Whether any are there."""
    if facts.cache_refuses or facts.kernels:
        return Finding(OK if facts.kernels else NOTE, f"files in the cache: {facts.kernels}")
    return Finding(
        NOTE, "none is compiled yet: first calls take seconds", "python -m fastbn warmup"
    )


def threading_layer(facts: Facts) -> Finding:
    """Which of Numba's layers a large call would start."""
    asked = facts.asked_layer or "default"
    wanted = KINDS.get(asked, (asked,))
    taken = next((name for name in wanted if facts.layers.get(name) == ""), None)
    reasons = "; ".join(f"{name}: {why}" for name, why in facts.layers.items() if why)
    if taken is None:
        known = asked in KINDS or asked in LAYERS
        text = f"{asked} cannot be loaded ({reasons})" if known else f"there is no layer {asked!r}"
        remedy = GET_TBB if wanted[0] == "tbb" else GET_OMP
        return Finding(WRONG, text, remedy if known else "unset NUMBA_THREADING_LAYER")
    if taken == "omp" or facts.asked_layer not in ("", "default"):
        return Finding(OK, f"{taken} would be taken")
    return Finding(SLOW, f"{taken} would be taken, whose launches take longer ({reasons})", GET_OMP)


def threads(facts: Facts) -> Finding:
    """Variables that leave processors idle."""
    cpus = _cpus(facts)
    low = {
        name: int(value)
        for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
        if (value := facts.environment.get(name, "").split(",")[0].strip()).isdigit()
    }
    low = {name: value for name, value in low.items() if 0 < value < cpus}
    if low:
        text = ", ".join(f"{name}={value}" for name, value in low.items())
        remedy = f"unset {' and '.join(low)}, or leave it if others need the rest"
        return Finding(SLOW, f"{text}, where there are {cpus} CPUs", remedy)
    return Finding(OK, f"CPUs for a large call: {cpus}")


def quota(facts: Facts) -> Finding:
    """A share of the CPUs that other libraries do not see."""
    if facts.quota >= facts.affinity:
        return Finding(OK, "the control groups grant all CPUs")
    cpus, given = _cpus(facts), facts.environment.get("OMP_NUM_THREADS", "").split(",")[0]
    text = f"the control groups grant {facts.quota:g} of {facts.affinity} CPUs"
    if given.strip().isdigit() and 0 < int(given) <= cpus:
        return Finding(OK, f"{text}, and OMP_NUM_THREADS={given.strip()} says so")
    return Finding(
        SLOW,
        f"{text}: fastbn keeps to them, PyTorch's and BLAS's threads do not and are put to sleep",
        f"set OMP_NUM_THREADS={cpus}",
    )


def processor(facts: Facts) -> Finding:
    """An old processor, or none at all."""
    if facts.emulated:
        text = "it is emulated: bits are right, times say nothing"
        return Finding(SLOW, text, "use a Python that is built for this processor")
    if not facts.modern:
        text = f"{facts.here.name} is older than x86-64-v3: shorter vectors, and no AVX2"
        return Finding(SLOW, text, "use a newer machine")
    if facts.compiled_for.name != facts.here.name:
        text = f"kernels are compiled for {facts.compiled_for.name}, this is {facts.here.name}"
        return Finding(NOTE, text, "unset NUMBA_CPU_NAME if kernels serve no other machine")
    return Finding(OK, facts.here.name)


def multiply_add(facts: Facts) -> Finding:
    """Fused, or the bits are not those of other machines."""
    if facts.compiled_for.fuses:
        return Finding(OK, "fused")
    text = f"none for {facts.compiled_for.name}: last digits are not those of other machines"
    return Finding(WRONG, text, _other_processor(facts.here.fuses, "x86-64-v3"))


def float16(facts: Facts) -> Finding:
    """Instructions for it; on x86-64 those of F16C."""
    if facts.compiled_for.converts_halves:
        return Finding(OK, "converted by the processor")
    text = f"no instructions for {facts.compiled_for.name} (F16C): arrays are copied as float32"
    return Finding(SLOW, text, _other_processor(facts.here.converts_halves, "x86-64-v3"))


def subnormals(facts: Facts) -> Finding:
    """Kept, or the bits are not those of other machines."""
    if facts.flushes_subnormals:
        text = "flushed to zero by a library that was built with -ffast-math: other bits"
        return Finding(WRONG, text, "find what is loaded at the start, such as by LD_PRELOAD")
    return Finding(OK, "kept")


def huge_pages(facts: Facts) -> Finding | None:
    """Of the system, which Linux may give on request."""
    if not facts.huge_pages:
        return None
    if "[never]" in facts.huge_pages:
        text = "off: outputs of 2 MB and more take longer"
        remedy = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, as root of the host"
        return Finding(SLOW, text, remedy)
    return Finding(OK, "given on request")


def memory(facts: Facts) -> Finding | None:
    """Whether outputs can wait in it for the next call."""
    if facts.memory == math.inf:
        return None
    text = f"{facts.memory / 1e9:.3g} GB, of which {facts.kept / 1e6:,.0f} MB may wait for calls"
    if facts.kept < WARM:
        return Finding(SLOW, text, "grant more, or pass out= where outputs are large")
    return Finding(OK, text)


def tuning(facts: Facts) -> Finding:
    """Whether this machine was measured."""
    if facts.tuned:
        return Finding(OK, "this machine was measured")
    if facts.far_cache:
        text = "sizes follow a formula that is not sure of caches like these"
        return Finding(NOTE, text, "python -m fastbn tune, while the machine is quiet")
    return Finding(OK, "sizes follow the formula, which suits caches like these")


def _cpus(facts: Facts) -> int:
    """As many as a large call may have."""
    return max(1, min(facts.affinity, math.ceil(min(facts.quota, facts.affinity))))


def _other_processor(able: bool, name: str) -> str:
    """What to compile for instead, or where."""
    if able:
        return f"unset NUMBA_CPU_NAME and NUMBA_CPU_FEATURES, or name one that has it: {name}"
    return "use another machine: this one's processor has none"


CHECKS: tuple[Callable[[Facts], Finding | None], ...] = (
    versions,
    compiler,
    kernel_cache,
    kernels,
    threading_layer,
    threads,
    quota,
    processor,
    multiply_add,
    float16,
    subnormals,
    huge_pages,
    memory,
    tuning,
)


def judge(facts: Facts) -> Iterator[tuple[str, Finding]]:
    """What each check that applies here finds, by its name."""
    for check in CHECKS:
        finding = check(facts)
        if finding is not None:
            yield check.__name__.replace("_", " "), finding
