"""`python -m fastbn tune`: from which size on this machine's data outgrow its caches.

Times whole arrays with plain stores against slabs with stores past the caches, for x from 3 MB
on, and finds the size from which the latter win; then the best of three sizes of slabs.
"""

from collections.abc import Callable
from functools import partial
from time import sleep
from timeit import repeat

import numpy as np

import fastbn

from ._arrays import layout
from ._kernels import schedule
from ._runtime import caches, threads

SIZES = tuple(int(2 ** (k / 2)) for k in range(43, 53))  # bytes of x: 3 to 64 MB
SLABS = (0.25, 0.5, 1.0)  # of a core's own cache
ROUNDS = 5
MARGIN = 0.97  # that the time in slabs is of the other's where it counts as less


def _plain(plan, inputs: int, threads: int, both: bool) -> schedule.Walk:
    """Each thread sums and then writes all its channels."""
    return schedule.Walk(plan.share(threads) if both and plan.in_slabs else 0, False)


def _in_slabs(size: int, plan, inputs: int, threads: int, both: bool) -> schedule.Walk:
    """Each thread sums and then writes so many bytes of its channels, past the caches."""
    slab = plan.slab(inputs, size, plan.share(threads))
    return schedule.Walk(slab if both and plan.in_slabs else 0, True)


def _times(size: int, walks: list[Callable]) -> np.ndarray:
    """Seconds, (walks, 2), of a forward and a backward pass over x of so many bytes."""
    shape = 16, size // (16 * 784 * 4), 28, 28
    x, dy = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
    out, found = np.empty_like(x), np.full((ROUNDS, len(walks), 2), np.inf)
    for times in found:
        for k, walk in enumerate(walks):
            with layout.force_walks(walk):
                _, saved = fastbn.forward(x, out=out)  # the walk is chosen
                times[k] = _least(partial(fastbn.forward, x, out=out)), np.inf
                fastbn.backward(dy, saved, out=out)
                times[k, 1] = _least(partial(fastbn.backward, dy, saved, out=out))
    return np.median(found, axis=0)


def _least(call: Callable[[], object]) -> float:
    """Seconds of the best of three calls."""
    sleep(threads.pace.alone_for())  # a launch was late
    return min(repeat(call, number=1, repeat=3))


def _crossing(ratios: list[float]) -> int:
    """From which size on the walk in slabs wins: where all that follow, taken together, do."""
    logs = np.log(np.array(ratios) / MARGIN)
    cost = [logs[k:].sum() for k in range(len(logs))] + [0.0]
    return int(np.argmin(cost))


def tune(report: Callable[[str], object] = print) -> caches.Tuned:
    """Measure this machine and keep what was found; ``report`` takes a line at a time."""
    most, core, found = fastbn.get_num_threads(), caches.of_core(), {}
    slab = int(caches.SLAB * core)
    teams = sorted({1, most, *(1 << k for k in range(most.bit_length()) if 1 << k <= most)})
    for team in teams:
        with fastbn.threads(team):
            ratios = []
            for size in SIZES:
                plain, slabs = _times(size, [_plain, partial(_in_slabs, slab)])
                ratios.append(slabs / plain)
        for inputs in (1, 2):
            first = _crossing([ratio[inputs - 1] for ratio in ratios])
            # Beyond the largest size that was measured, the next one.
            size = SIZES[first] if first < len(SIZES) else 2 * SIZES[-1]
            found[team, inputs] = (inputs + 1) * size
            name = ("forward", "backward")[inputs - 1]
            report(f"{team} threads, {name}: outgrown from {found[team, inputs] >> 20} MB on")
    candidates = [int(share * core) for share in SLABS]
    with fastbn.threads(most):
        times = _times(SIZES[-1], [partial(_in_slabs, size) for size in candidates])
    best = candidates[int(np.argmin(np.prod(times, axis=1)))]
    report(f"slabs of {best >> 10} KB")
    tuned = caches.Tuned(found, best)
    caches.keep(tuned)
    layout.forget()
    return tuned
