"""The processor's caches: what they hold, and from which size on data outgrow them.

No bit depends on any of this. Without `python -m fastbn tune` a formula says when data outgrow the
caches; with it, what was measured on this machine and is kept beside the kernels.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from . import cache as kernel_cache

# Data outgrow the caches from so many of them on, inputs and output; those of one thread earlier.
# Then stores go past the caches, and a thread sums and writes a slab that fits half its own cache
# before the next one. With 32 MB of cache, on two threads, outputs and gradients of 38 MB and more
# take 0.65 to 0.85 of the time of whole arrays and plain stores, outputs of 26 MB 1.2 to 1.4; on
# one thread these take 0.87 to 0.96, and 0.69 to 0.93 from 38 MB on (AMD EPYC, 2026-11).
OUTGROWN, OUTGROWN_ALONE, SLAB = 1.0, 0.75, 0.5
# A core with so large a second-level cache has a last level that is far away, and shared with many:
# on 16 cores of an Intel Emerald Rapids (2 MB, and 300 MB for all), data of 13 MB take half as long
# in slabs for the second level. With 1 MB, and 32 MB near by, 1.2 times as long (AMD EPYC).
FAR_CACHE_L2 = 2 << 20
LEAST_NEAR = 8 << 20  # bytes that count as near even so

_assumed = 0  # bytes, in place of those that are found


class Tuned(NamedTuple):
    """What was measured: bytes from which data outgrow the caches, and bytes of a slab."""

    outgrown: dict[tuple[int, int], int]  # by threads and inputs
    slab: int


@contextmanager
def assume(size: int) -> Iterator[None]:
    """Have the last-level cache hold so many bytes meanwhile, and a core's own a 32nd."""
    global _assumed
    before, _assumed = _assumed, size
    try:
        yield
    finally:
        _assumed = before


def last_level() -> int:
    """Bytes of the last-level cache; 32 MB where the system does not say."""
    return _assumed or _found()[1]


def of_core() -> int:
    """Bytes of a core's second-level cache; 1 MB where the system does not say."""
    return _assumed // 32 if _assumed else _found()[0]


def outgrown(inputs: int, threads: int) -> int:
    """Bytes of inputs and output from which they outgrow the caches of so many threads."""
    found = None if _assumed else tuned()
    if found is not None:
        nearest = min(found.outgrown, key=lambda key: (key[1] != inputs, abs(key[0] - threads)))
        return found.outgrown[nearest]
    near = last_level()
    if of_core() >= FAR_CACHE_L2:
        near = min(near, max(LEAST_NEAR, threads * of_core()))
    return max(1, int((OUTGROWN if threads > 1 else OUTGROWN_ALONE) * near))


def slab() -> int:
    """Bytes of inputs that a thread sums and then writes, where data outgrow the caches."""
    found = None if _assumed else tuned()
    return int(SLAB * of_core()) if found is None else found.slab


@cache
def _found() -> tuple[int, int]:
    """Bytes of the second level and of the last one."""
    sizes: dict[int, int] = {}
    for place in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        with suppress(OSError, ValueError):
            level, text = ((place / name).read_text().strip() for name in ("level", "size"))
            if text.endswith("K"):
                sizes[int(level)] = max(sizes.get(int(level), 0), int(text[:-1]) << 10)
    last = [size for level, size in sizes.items() if level > 1]  # a guest may not see any
    return sizes.get(2, 1 << 20), max(last, default=32 << 20)


def _machine() -> str:
    """What was measured counts for: processor, caches and number of cores."""
    model = "unknown"
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line for line in lines if line.startswith("model name")), model)
    return f"{model} {_found()} {os.cpu_count()}"


def file() -> Path:
    """Where what was measured is kept: a home may be shared by different machines."""
    name = hashlib.sha256(_machine().encode()).hexdigest()[:16]
    return kernel_cache.directory() / f"tuned-{name}.json"


@cache
def tuned() -> Tuned | None:
    """What was measured on this machine; None where nothing was, or the file makes no sense."""
    with suppress(OSError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError):
        saved = json.loads(file().read_text())
        bounds = {(int(t), int(n)): int(size) for t, n, size in saved["outgrown"]}
        slab = int(saved["slab"])
        if {1, 2} == {inputs for _, inputs in bounds} and min(slab, *bounds.values()) > 0:
            return Tuned(bounds, slab)
    return None


def keep(found: Tuned) -> None:
    """Keep what was measured, whole or not at all; it counts for this process from now on."""
    place = file()
    place.parent.mkdir(parents=True, exist_ok=True)
    rows = [[threads, inputs, size] for (threads, inputs), size in found.outgrown.items()]
    handle, name = tempfile.mkstemp(dir=place.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump({"machine": _machine(), "outgrown": rows, "slab": found.slab}, stream)
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink()
        raise
    tuned.cache_clear()


def described(threads: int) -> dict[str, object]:
    """For `config_info`."""
    sizes = {n: outgrown(n, threads) for n in (1, 2)}
    return {
        "core_cache": of_core(),
        "last_level_cache": last_level(),
        "outgrown": {"forward": sizes[1], "backward": sizes[2]},
        "slab": slab(),
        "walks_from": "formula" if _assumed or tuned() is None else f"tune ({file().name})",
    }
