"""Train a ResNet of PyTorch's on handwritten digits: as it is, converted to fastbn, and fused.

    python examples/torch_resnet.py [--steps 25] [--output torch_resnet.png] [--quick]

Three networks start from the same weights and learn scikit-learn's scanned digits, enlarged to
32 x 32, from the same batches: PyTorch's own; one that `fastbn.adapters.torch.convert` has given
fastbn's batch norms; and one in which each of these is a single pass with the addition and the ReLU
that follow it. A few steps in float64 show that all three compute the same. Clocks around the batch
norms, and PyTorch's profiler for additions and ReLUs, say what a step is made of.

Steps take turns, but each network has a process as it would on its own, whose C library keeps what
is freed: without that, page faults decide, which come and go with the order in which memory is
freed. It needs `pip install -e ".[torch,examples]"`.
"""

import multiprocessing
import os
import time
from dataclasses import dataclass, field

import command_line
import digits_report
import numpy as np
import torch
import torch_resnet_report
from digits_data import load_pixels
from rich.console import Console
from torch import nn
from torch.nn import functional

import fastbn
from fastbn.adapters.torch import convert

BATCH, SIDE = 128, 32
EXACT = 16  # scans of a batch in float64
WIDTHS, BLOCKS = (32, 64, 128), 3  # ResNet-20 for 32 x 32 (He et al. 2016), of twice its width
RATE, MOMENTUM = 0.1, 0.9


class Block(nn.Module):
    """Two convolutions and a way past them, as in He et al. (2016)."""

    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        nn.init.zeros_(self.norm2.weight)  # blocks start as nothing, which keeps roundings small
        self.relu = nn.ReLU(inplace=True)
        self.past = nn.Identity()
        if (before, 1) != (width, stride):
            conv = nn.Conv2d(before, width, 1, stride, bias=False)
            self.past = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x):
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        y += self.past(x)
        return self.relu(y)


def new_network(name):
    """Three stages of blocks; the same weights each time."""
    torch.manual_seed(0)
    layers, before = [], WIDTHS[0]
    for width in WIDTHS:
        for _ in range(BLOCKS):
            layers.append(Block(before, width, 1 if width == before else 2))
            before = width
    stem = nn.Conv2d(1, WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10)
    network = nn.Sequential(*stem, *layers, *head)
    if name == torch_resnet_report.EAGER:
        return network
    return convert(network, fuse=name == torch_resnet_report.FUSED)


def load_scans():
    """(x, labels), enlarged."""
    (pixels, labels), _ = load_pixels()
    x = torch.from_numpy(pixels).view(-1, 1, 8, 8)
    x = functional.interpolate(x, size=(SIDE, SIDE), mode="bilinear") - 0.3  # about the mean
    return x, torch.from_numpy(labels)


class Learner:
    """A network in training."""

    def __init__(self, name, dtype=torch.float32):
        self.network, self.dtype = new_network(name).to(dtype), dtype
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=RATE, momentum=MOMENTUM)
        self.scans = load_scans()

    def learn(self, batch):
        """One step: (loss, seconds)."""
        x, labels = (part[batch] for part in self.scans)
        x, start = x.to(self.dtype), time.perf_counter()
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(self.network(x), labels)
        loss.backward()
        self.optimizer.step()
        return loss.item(), time.perf_counter() - start

    def shares(self, steps, size):
        """The share of a step of so many scans that each operation takes, as medians."""
        kinds, clock, seen = torch_resnet_report.KINDS, Clock(self.network), []
        for _ in range(steps):
            clock.spent = 0.0
            _, seconds = self.learn(np.arange(size))
            seen.append({torch_resnet_report.NORM: clock.spent / seconds})
        clock.remove()
        for shares in seen:
            with torch.autograd.profiler.profile() as profiler:
                _, seconds = self.learn(np.arange(size))
            for event in profiler.function_events:
                kind = operation(event)
                shares[kind] = shares.get(kind, 0.0) + event.cpu_time_total / 1e6 / seconds
        return {kind: float(np.median([s.get(kind, 0.0) for s in seen])) for kind in kinds}


class Clock:
    """The seconds that a network's batch norms take, forward and backward.

    A profiler would take as long for each of the small operations in a module as these do.
    """

    def __init__(self, network):
        self.spent, self.hooks = 0.0, []
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):  # fastbn's are derived from it
                self.hooks.append(module.register_forward_pre_hook(self.begin))
                self.hooks.append(module.register_forward_hook(self.forward))

    def begin(self, *_):
        self.start = time.perf_counter()

    def end(self, *_):
        self.spent += time.perf_counter() - self.start

    def forward(self, module, inputs, output):
        self.end()
        output.grad_fn.register_prehook(self.begin)
        output.grad_fn.register_hook(self.end)

    def remove(self):
        for hook in self.hooks:
            hook.remove()


def operation(event):
    """Which of the operations beside batch norm an event of the profiler is, None for others."""
    if event.cpu_parent is not None:  # within another, such as the optimizer's
        return None
    name = event.name.removeprefix("autograd::engine::evaluate_function: ").lower()
    if name in ("aten::add", "aten::add_", "addbackward0"):
        return torch_resnet_report.ADD
    return torch_resnet_report.RELU if "relu" in name else None


def serve(name, threads, pipe):
    """In a process of its own: answer the calls that come."""
    torch.set_num_threads(threads)
    learners = {}
    for dtype, method, given in iter(pipe.recv, None):
        if dtype not in learners:
            learners.clear()
            learners[dtype] = Learner(name, getattr(torch, dtype))
        pipe.send(getattr(learners[dtype], method)(*given))


@dataclass
class Side:
    """A network's process, and what was seen of it; shares are those of a step, by operation."""

    pipe: object
    losses: list[float] = field(default_factory=list)
    exact: list[float] = field(default_factory=list)  # losses in float64
    seconds: list[float] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)

    def ask(self, dtype, method, *given):
        """What a method of its learner returns."""
        self.pipe.send((dtype, method, given))
        return self.pipe.recv()


def start(threads):
    """The processes, which end with this one."""
    os.environ |= {
        "KINETO_LOG_LEVEL": "99",  # the profiler has messages of its own
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),  # glibc, see above
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    }
    sides, context = {}, multiprocessing.get_context("spawn")
    for name in torch_resnet_report.SIDES:
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(name, threads, theirs), daemon=True).start()
        theirs.close()  # so that the end of the process is the end of what comes
        sides[name] = Side(ours)
    return sides


def train(sides, steps, dtype, size, progress):
    """Each batch is every network's, in an order that changes."""
    rng = np.random.default_rng(0)
    scans = len(load_scans()[0])
    for _ in progress.track(range(steps), description=f"training in {dtype}"):
        batch = rng.choice(scans, size, replace=False)
        for name in rng.permutation(list(sides)):
            loss, seconds = sides[name].ask(dtype, "learn", batch)
            if dtype == "float64":
                sides[name].exact.append(loss)
            else:
                sides[name].losses.append(loss)
                sides[name].seconds.append(seconds)


def main():
    """Read the command line, train, profile, report."""
    quick = "a few steps of few scans, on one thread"
    parser = command_line.new_parser(__doc__, "torch_resnet.png", quick)
    parser.add_argument("--steps", type=int, default=25, help="training steps of each network")
    options = parser.parse_args()
    steps, few, size, threads = max(options.steps, 4), 10, BATCH, fastbn.get_num_threads()
    if options.quick:
        steps, few, size, threads = 4, 2, EXACT, 1
    console = Console()
    sides = start(threads)
    with digits_report.bar(console) as progress:
        train(sides, few, "float64", EXACT, progress)
        train(sides, steps, "float32", size, progress)
        for side in progress.track(sides.values(), description="what a step is made of"):
            side.shares = side.ask("float32", "shares", few, size)
    for side in sides.values():
        side.pipe.send(None)
    console.print(torch_resnet_report.table(sides))
    torch_resnet_report.draw(sides, options.output)
    console.print(f"Picture: {options.output}", soft_wrap=True)
    for sentence in torch_resnet_report.sentences(sides):
        console.print(f"- {sentence}", highlight=False)


if __name__ == "__main__":
    main()
