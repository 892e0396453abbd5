"""Bounds on the number of threads that the system and the environment set, known without Numba."""

import math
import os
from contextlib import suppress
from pathlib import Path


def control_groups(
    controller: str,
    root: Path = Path("/sys/fs/cgroup"),
    own: Path = Path("/proc/self/cgroup"),
) -> set[Path]:
    """Where the limits of "cpu" or "memory" stand that this process is under, version 2 or 1.

    A service's limit is that of its own group or of any above it; a container sees its own as root.
    """
    groups = {root, root / controller}
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = (line + "::").split(":", 2)
            base = root / controller if controller in controllers.split(",") else root
            if not controllers or base != root:
                inner = base / path.rstrip(":").lstrip("/")
                groups |= {group for group in (inner, *inner.parents) if root in group.parents}
    return groups


def _cgroup_quota(*places: Path) -> float:
    """CPUs that the control groups grant; infinity without a limit."""
    return min(map(_quota, control_groups("cpu", *places)))


def _quota(group: Path) -> float:
    """What one control group grants, whichever the version of its files."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        granted, period = (group / "cpu.max").read_text().split()
        return math.inf if granted == "max" else int(granted) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota = int((group / "cpu.cfs_quota_us").read_text())
        return quota / int((group / "cpu.cfs_period_us").read_text()) if quota > 0 else math.inf
    return math.inf


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _number(variable: str) -> float:
    """The first number of an environment variable; infinity where there is none."""
    first = os.environ.get(variable, "").split(",")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else math.inf


def found(numba_num_threads: float | None = None) -> dict[str, float]:
    """Every bound, by name; where Numba is not loaded yet, its own is what it is about to be."""
    quota = _cgroup_quota()
    bounds = {
        "affinity": _affinity(),
        "NUMBA_NUM_THREADS": numba_num_threads or _number("NUMBA_NUM_THREADS"),
        "cgroup quota": max(1, math.ceil(quota)) if quota < math.inf else math.inf,
        "OMP_NUM_THREADS": _number("OMP_NUM_THREADS"),
    }
    return {name: bound for name, bound in bounds.items() if bound < math.inf}
