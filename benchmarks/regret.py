"""How well the walk through memory is chosen: `python -m benchmarks.regret`.

Each cell, a shape, layout, pass and kind of output, is timed with every walk that could be chosen,
the calls in turn. The best walk is found on one half of the rounds; the default's regret is its
time by that walk's on the other half: 1 is the best choice, and noise alone gives 1 on average.
"""

import argparse
import os
from functools import partial
from itertools import product
from timeit import repeat

import numpy as np

import fastbn
from fastbn._arrays import layout
from fastbn._kernels import schedule
from fastbn._runtime import caches

from .cases import CASES
from .measure import QUIET, busy, settle_allocator
from .report import machine

LADDER = (
    *((n, c, side, side) for n, c, side in ((8, 64, 14), (16, 64, 28), (8, 64, 28), (32, 64, 28))),
    *((64, 1024), (256, 1024), (1024, 1024), (4096, 64), (20000, 40)),
)


def shapes():
    """Every shape of the case table but the smallest, and a ladder of small ones."""
    table = (case.shape for case in CASES.values() if case.size >= schedule.LARGE)
    return list(dict.fromkeys((*table, *LADDER)))


def walks(plan, inputs, threads):
    """Every walk of a pass, by name: whole arrays or slabs, plain or non-temporal stores."""
    found, threads = {"default": None}, min(plan.team, threads)
    share, core = plan.share(threads), caches.of_core()
    for nontemporal in (False, True):
        stores = ", past the caches" if nontemporal else ""
        found[f"whole{stores}"] = schedule.Walk(0, nontemporal)
        if plan.in_slabs:
            found[f"shares{stores}"] = schedule.Walk(share, nontemporal)
            for part in (4, 2):
                slab = plan.slab(inputs, core // part, share)
                found[f"slabs of L2/{part}{stores}"] = schedule.Walk(slab, nontemporal)
    return found


def calls(shape, last, given):
    """{pass: (what makes its call, number of inputs)}, and the plan of the shape.

    A call is to be made while a walk is forced: a gradient's plan is that of its `Saved`.
    """
    rng, (n, c, *rest) = np.random.default_rng(0), shape
    x, dy = rng.standard_normal((2, n, *rest, c) if last else (2, *shape), np.float32)
    if last:
        x, dy = np.moveaxis(x, -1, 1), np.moveaxis(dy, -1, 1)
    out = np.empty_like(x) if given else None

    def forward():
        return partial(fastbn.forward, x, out=out)

    def backward():
        return partial(fastbn.backward, dy, fastbn.forward(x)[1], out=out)

    return {"forward": (forward, 1), "backward": (backward, 2)}, layout.see(x, 1)[1].plan


def times(make, chosen, rounds):
    """Seconds, (rounds, walks), of the best of three calls; None while others are busy."""
    found = np.empty((rounds, len(chosen)))
    before, order = busy(), np.random.default_rng(0)
    for row in found:
        for k in order.permutation(len(chosen)):  # each walk after any other
            walk = chosen[k]
            with layout.force_walks(walk and (lambda *_, walk=walk: walk)):
                call = make()
                call()  # the walk is chosen
                call()  # and finds in the caches what it left there itself
                row[k] = min(repeat(call, number=1, repeat=3))
    wall, own, all_ = np.subtract(busy(), before)
    return None if all_ - own > QUIET * wall * os.cpu_count() else found


def regret(found):
    """(the default's time by that of the best walk, which that is), each on other rounds."""
    halves = found[::2], found[1::2]
    ratios, best = [], []
    for one, other in (halves, halves[::-1]):
        best.append(int(np.argmin(np.median(one, axis=0))))
        ratios.append(np.median(other[:, 0]) / np.median(other[:, best[-1]]))
    return float(np.sqrt(np.prod(ratios))), best


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regret", description=__doc__)
    parser.add_argument("--threads", type=int, help="default: as many as fastbn takes")
    parser.add_argument("--rounds", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--only", default="", help="shapes with this in their name: 32x64")
    options = parser.parse_args()
    if options.threads:
        fastbn.set_num_threads(options.threads)
    threads = fastbn.get_num_threads()
    settle_allocator()
    ratios = {}
    for shape, last, given in product(shapes(), (False, True), (False, True)):
        name = "x".join(map(str, shape))
        if options.only not in name or (last and len(shape) == 2):
            continue
        passes, plan = calls(shape, last, given)
        for label, (make, inputs) in passes.items():
            chosen = walks(plan, inputs, threads)
            found = times(make, list(chosen.values()), options.rounds)
            cell = f"{name} {'last' if last else 'first'} {label}{' out=' * given}"
            if found is None:
                print(f"{cell:48} noisy", flush=True)
                continue
            ratios[cell], best = regret(found)
            names = " / ".join(dict.fromkeys(list(chosen)[k] for k in best))
            least = 1e6 * found[:, 0].min()
            print(f"{cell:48}{least:9.0f} us {ratios[cell]:6.2f}  {names}", flush=True)
    if ratios:
        worst = max(ratios, key=ratios.__getitem__)
        mean = np.exp(np.mean(np.log(list(ratios.values()))))
        print(f"{len(ratios)} cells: mean {mean:.3f}, worst {ratios[worst]:.2f} {worst}")
        print(machine())


if __name__ == "__main__":
    main()
