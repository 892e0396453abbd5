"""One of the processes that `test_torch_sync` starts: `python ranks.py JOB RANK FOLDER`.

It runs every case of a job and saves what each gave.
"""

import faulthandler
import os
import signal
import sys
import time
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from fastbn.adapters.torch import SyncBatchNorm, convert

SIZE = 3
PARTS = (3, 0, 8), (4, 6, 1)  # rows of each process, of a first and a second batch
DOUBLE, SINGLE, HALF = torch.float64, torch.float32, torch.bfloat16
# name: (shape but for the rows, dtype, channels last, options of the module)
SETTINGS = {
    "rows": ((4,), DOUBLE, False, {}),
    "1d": ((4, 7), DOUBLE, False, {}),
    "2d": ((4, 5, 3), DOUBLE, False, {}),
    "3d": ((4, 2, 3, 5), DOUBLE, False, {}),
    "2d channels last": ((4, 5, 3), DOUBLE, True, {}),
    "3d channels last": ((4, 2, 3, 5), DOUBLE, True, {}),
    "float32": ((4, 5, 3), SINGLE, False, {}),
    "bfloat16": ((4, 5, 3), HALF, False, {"dtype": SINGLE}),
    "no affine": ((4, 5), DOUBLE, False, {"affine": False}),
    "no running statistics": ((4, 5), DOUBLE, False, {"track_running_stats": False}),
    "no momentum": ((4, 5), DOUBLE, False, {"momentum": None}),
    "options": ((4, 5), DOUBLE, False, {"momentum": 0.7, "eps": 0.3}),
}


def dense(x):
    """With its channels last in memory."""
    last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return x.contiguous(memory_format=last)


def whole(name, step):
    """All processes' input and gradient: (x, dy)."""
    tail, dtype, last, _ = SETTINGS[name]
    rng = torch.Generator().manual_seed(step)
    pair = torch.randn((2, sum(PARTS[step]), *tail), generator=rng, dtype=DOUBLE)
    x, dy = (pair * (1 + step) + 2).to(dtype)
    return (dense(x), dense(dy)) if last else (x, dy)


def part(x, step, rank):
    """A process's rows."""
    given = x.split(PARTS[step])[rank]
    return dense(given) if x.dim() > 3 and not x.is_contiguous() else given


def module(kind, name):
    """A batch norm of 4 channels with weights of its own."""
    _, dtype, _, options = SETTINGS[name]
    made = kind(4, **{"dtype": dtype, **options})
    if made.affine:
        with torch.no_grad():
            made.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 3.0]))
            made.bias.copy_(torch.tensor([0.0, 1.0, -1.0, 0.25]))
    return made


def two_steps(bn, batches):
    """What a batch norm gives for two batches, and in evaluation."""
    found = []
    for x, dy in batches:
        bn.zero_grad()
        y, dx = outputs(bn, x, dy)
        grads = [None if p is None else p.grad.clone() for p in (bn.weight, bn.bias)]
        buffers = {key: value.clone() for key, value in bn.named_buffers()}
        found.append({"y": y, "dx": dx, "grads": grads, "buffers": buffers})
    x, dy = batches[0]
    evaluated = outputs(bn.eval(), x, dy)
    bn.train()
    return found, evaluated


def outputs(bn, x, dy):
    """Output and gradient of the input."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = bn(x)
    y.backward(dy)
    return y.detach(), x.grad


def setting(rank, name, kind=SyncBatchNorm):
    """One of `SETTINGS`."""
    batches = [[part(v, step, rank) for v in whole(name, step)] for step in range(2)]
    return two_steps(module(kind, name), batches)


def settings(rank):
    """Each of them."""
    return {name: setting(rank, name) for name in SETTINGS}


def unsynchronised(rank):
    """One of them by PyTorch's batch norm of one process."""
    return setting(rank, "2d", nn.BatchNorm2d)


def collectives(rank):
    """How many the group had: after a forward pass, a backward one, and those of a frozen input."""
    group = distributed.group.WORLD
    counts, (x, dy) = [], [part(v, 0, rank) for v in whole("2d", 0)]
    bn = module(SyncBatchNorm, "2d")
    frozen = []
    for needs in (True, False):
        x = x.detach().requires_grad_(needs)
        counts.append(group._get_sequence_number_for_group())
        y = bn(x)
        counts.append(group._get_sequence_number_for_group())
        bn.zero_grad()
        y.backward(dy)
        counts.append(group._get_sequence_number_for_group())
        frozen.append(bn.weight.grad.clone())
    called = named_collectives(bn, x.requires_grad_(), dy)
    return [b - a for a, b in pairwise(counts)], frozen, called


def named_collectives(bn, x, dy):
    """The functions of `torch.distributed` that are called."""
    names = [name for name in dir(distributed) if name.startswith(("all_", "reduce", "broadcast"))]
    before, called = {name: getattr(distributed, name) for name in names}, []
    for name, function in before.items():

        def noted(*args, name=name, function=function, **kwargs):
            called.append(name)
            return function(*args, **kwargs)

        setattr(distributed, name, noted)
    try:
        y = bn(x)
        called.append("then")
        y.backward(dy)
    finally:
        for name, function in before.items():
            setattr(distributed, name, function)
    return called


def few(rank):
    """Batches of one value in all, of one in each of two, and of none."""
    found = []
    for rows in ((1, 0, 0), (1, 1, 0), (0, 0, 0)):
        bn = SyncBatchNorm(2, dtype=DOUBLE)
        x = torch.full((rows[rank], 2), float(rank), dtype=DOUBLE, requires_grad=True)
        try:
            y = bn(x)
            y.sum().backward()
            found.append((y.detach(), x.grad, bn.running_mean, bn.num_batches_tracked.item()))
        except ValueError as error:
            found.append(str(error))
    return found


def subgroups(rank):
    """Two normalise together, one alone."""
    pair = distributed.new_group([0, 2])
    bn = SyncBatchNorm(4, dtype=DOUBLE, process_group=pair)
    x = torch.arange(8.0, dtype=DOUBLE).reshape(2, 4) * (rank + 1)
    return outputs(bn, x, x**2)


def twice(rank):
    """The error of a second derivative."""
    x = torch.randn(3, 4, requires_grad=True)
    bn = SyncBatchNorm(4)
    (dx,) = torch.autograd.grad(bn(x).pow(3).sum(), x, create_graph=True)
    try:
        dx.sum().backward()
    except RuntimeError as error:
        return str(error)
    return None


def compiled(rank):
    """Output with and without `torch.compile`, and the error of a whole graph."""
    x = part(whole("2d", 0)[0], 0, rank)
    found = []
    for wrap in (lambda model: model, lambda model: torch.compile(model, backend="eager")):
        model = nn.Sequential(nn.ReLU(), module(SyncBatchNorm, "2d"), nn.ReLU())
        found.append(wrap(model)(x).detach())
    torch.compiler.reset()
    try:
        torch.compile(model, backend="eager", fullgraph=True)(x)
    except Exception as error:
        return *found, type(error).__name__
    return *found, None


def network(seed=0):
    """Two batch norms between linear layers."""
    torch.manual_seed(seed)
    layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8)
    return nn.Sequential(*layers, nn.Linear(8, 3)).to(DOUBLE)


def trained(model, rank=None, steps=4):
    """The state after some steps on a process's rows, or on all."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(steps):
        rng = torch.Generator().manual_seed(step)
        x = torch.randn(11, 6, generator=rng, dtype=DOUBLE)
        labels = torch.randint(3, (11,), generator=rng)
        if rank is not None:
            x, labels = (part(v, step % 2, rank) for v in (x, labels))
        loss = nn.functional.cross_entropy(model(x), labels, reduction="sum") / 11
        optimiser.zero_grad()
        (loss if rank is None else SIZE * loss).backward()
        optimiser.step()
    return model.state_dict()


def data_parallel(rank):
    """A model's state after training under DistributedDataParallel."""
    model = DistributedDataParallel(convert(network(), sync=True))
    return {key.removeprefix("module."): value for key, value in trained(model, rank).items()}


def failures(rank):
    """What the others see of one that does not call, and of one that is killed."""
    late = distributed.new_group(timeout=timedelta(seconds=2))
    everyone = distributed.new_group()
    bn, x = SyncBatchNorm(4), torch.randn(3, 4, requires_grad=True)

    def failed(call):
        start = time.monotonic()
        try:
            call()
        except (RuntimeError, ValueError) as error:
            return str(error), time.monotonic() - start
        return None

    bn.process_group = everyone
    bn(x)  # compiles
    bn.process_group = late
    found = [None if rank == 1 else failed(lambda: bn(x))]
    bn.process_group = everyone
    y = bn(x)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    found += [failed(lambda: y.sum().backward()), failed(lambda: bn(x))]
    return found


JOBS = {
    "right": [
        *(settings, unsynchronised, collectives, few, subgroups),
        *(twice, compiled, data_parallel),
    ],
    "wrong": [failures],
}


def save(found, rank):
    """Keep what was found so far."""
    torch.save(found, Path(sys.argv[3], f"{rank}.pt"))


def main():
    """Run a job."""
    job, rank, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    faulthandler.dump_traceback_later(100, exit=True)  # who hangs says where
    torch.set_num_threads(1)
    settings = {"rank": rank, "world_size": SIZE, "timeout": timedelta(seconds=20)}
    distributed.init_process_group("gloo", f"file://{folder}/meet", **settings)
    found = {case.__name__: case(rank) for case in JOBS[job]}
    save(found, rank)
    if job == "wrong":
        os._exit(0)  # nobody is there to say farewell to
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
