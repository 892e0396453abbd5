"""Train a ResNet of PyTorch's on handwritten digits: as it is, converted to fastbn, and fused.

    python examples/torch_resnet.py [--steps 150] [--output torch_resnet.png] [--quick]

Three networks start from the same weights and learn scikit-learn's scanned digits, enlarged to
32 x 32, from the same batches: PyTorch's own; one that `fastbn.adapters.torch.convert` has given
fastbn's batch norms; and one in which each of these is a single pass with the addition and the ReLU
that follow it. A few steps in float64 show that all three compute the same; then their steps in
float32 take turns. Afterwards PyTorch's profiler says how much of a step is batch norm, addition
and ReLU. It needs `pip install -e ".[torch,examples]"`.
"""

import argparse
import copy
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

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

BATCH, SIDE = 32, 32
WIDTHS = (16, 32, 64, 128)  # a quarter of ResNet-18's
RATE, MOMENTUM = 0.1, 0.9


class Block(nn.Module):
    """Two convolutions and a way past them, as in ResNet-18 (He et al. 2016)."""

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


def new_network():
    """Four stages of two blocks."""
    layers, before = [], WIDTHS[0]
    for width in WIDTHS:
        stride = 1 if width == before else 2
        layers += [Block(before, width, stride), Block(width, width, 1)]
        before = width
    stem = nn.Conv2d(1, WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()
    return nn.Sequential(*stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


@dataclass
class Side:
    """A network, and what was seen of it; shares are those of a step, by operation."""

    network: nn.Module
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    accuracy: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        parameters = self.network.parameters()
        self.optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM)

    def learn(self, x, labels):
        """One step: (loss, seconds)."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(self.network(x), labels)
        loss.backward()
        self.optimizer.step()
        return loss.item(), time.perf_counter() - start


def new_sides(dtype=torch.float32):
    """Three networks of the same weights."""
    torch.manual_seed(0)
    network = new_network().to(dtype)
    copies = [copy.deepcopy(network) for _ in range(3)]
    networks = copies[0], convert(copies[1]), convert(copies[2], fuse=True)
    return dict(zip(torch_resnet_report.SIDES, map(Side, networks), strict=True))


def load_scans():
    """(x, labels) for training and for testing, enlarged."""
    parts = []
    for pixels, labels in load_pixels():
        x = torch.from_numpy(pixels).view(-1, 1, 8, 8)
        x = functional.interpolate(x, size=(SIDE, SIDE), mode="bilinear") - 0.3  # about the mean
        parts.append((x, torch.from_numpy(labels)))
    return parts


def train(sides, steps, x, labels, progress):
    """Each batch is every network's, in an order that changes."""
    rng, dtype = np.random.default_rng(0), next(sides["PyTorch"].network.parameters()).dtype
    description = f"training in {dtype}".replace("torch.", "")
    for _ in progress.track(range(steps), description=description):
        batch = rng.choice(len(x), BATCH, replace=False)
        for name in rng.permutation(list(sides)):
            loss, seconds = sides[name].learn(x[batch].to(dtype), labels[batch])
            sides[name].losses.append(loss)
            sides[name].seconds.append(seconds)


def test(sides, x, labels):
    """The share of scans that each network reads right."""
    for side in sides.values():
        side.network.eval()
        with torch.no_grad():
            side.accuracy = (side.network(x).argmax(1) == labels).float().mean().item()
        side.network.train()


def label(network):
    """Have the profiler see a batch norm as one event, with all that its module does."""

    def begin(module, _):
        module.event = torch.autograd.profiler.record_function("batch norm")
        module.event.__enter__()

    def end(module, *_):
        module.event.__exit__(None, None, None)

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # fastbn's are derived from it
            module.register_forward_pre_hook(begin)
            module.register_forward_hook(end)


def operation(event):
    """Which of the operations in question an event of the profiler is; None for all others."""
    name = event.name.removeprefix("autograd::engine::evaluate_function: ").lower()
    if name == "batch norm" or "batchnorm" in name:
        return torch_resnet_report.NORM
    if name in ("aten::add", "aten::add_", "addbackward0"):
        return torch_resnet_report.ADD
    return torch_resnet_report.RELU if "relu" in name else None


def profile(sides, steps, x, labels, progress):
    """Medians of what the operations are of a step."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it has messages of its own
    for side in sides.values():
        label(side.network)
    seen = {name: [] for name in sides}
    for _ in progress.track(range(steps), description="profiling"):
        for name, side in sides.items():
            with torch.autograd.profiler.profile() as profiler:
                _, seconds = side.learn(x, labels)
            shares = Counter()
            for event in profiler.function_events:
                if event.cpu_parent is None:  # not within another, such as the optimizer's
                    shares[operation(event)] += event.cpu_time_total / 1e6 / seconds
            seen[name].append(shares)
    for name, side in sides.items():
        for kind in torch_resnet_report.KINDS:
            side.shares[kind] = float(np.median([shares[kind] for shares in seen[name]]))


def main():
    """Read the command line, train, profile, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=150, help="training steps of each network")
    parser.add_argument("--output", type=Path, default=Path("torch_resnet.png"), help="the figure")
    parser.add_argument("--quick", action="store_true", help="a few steps on one thread")
    options = parser.parse_args()
    steps = max(min(options.steps, 6) if options.quick else options.steps, 4)
    few = 2 if options.quick else 10

    console, (training, testing) = Console(), load_scans()
    torch.set_num_threads(1 if options.quick else fastbn.get_num_threads())
    sides, exact = new_sides(), new_sides(torch.float64)
    batch = [part[:BATCH] for part in training]
    with digits_report.bar(console) as progress:
        train(exact, few, *training, progress)
        for side in new_sides().values():
            side.learn(*batch)  # loads kernels
        train(sides, steps, *training, progress)
        test(sides, *testing)
        profile(sides, few, *batch, progress)
    console.print(torch_resnet_report.table(sides, exact))
    torch_resnet_report.draw(sides, options.output)
    console.print(f"Picture: {options.output.resolve()}", soft_wrap=True)
    for sentence in torch_resnet_report.sentences(sides, exact):
        console.print(f"- {sentence}", highlight=False)


if __name__ == "__main__":
    main()
