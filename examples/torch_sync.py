"""Train on three processes with small batches: batch norm of each one's own, and of all together.

    python examples/torch_sync.py [--steps 150] [--output torch_sync.png] [--quick]

A batch of 24 scikit-learn digits is split over three processes as 2, 6 and 16 scans. Under
`DistributedDataParallel` on CPUs (gloo), a network learns once with PyTorch's batch norm, each
process by the mean and variance of its own few scans, and once with fastbn's `SyncBatchNorm`, by
those of all 24. A single process that is given whole batches shows what should come out.
"""

import tempfile
from datetime import timedelta
from pathlib import Path

import command_line
import sync_report
import torch
from digits_data import load_scans
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from sync_report import ONE, OWN, SYNC
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from fastbn.adapters.torch import convert

PARTS = 2, 6, 16  # scans of each process
BATCH, RANKS = sum(PARTS), len(PARTS)
TITLE = f"Batches of {BATCH} digits on {RANKS} processes: {', '.join(map(str, PARTS))}"
WAIT = timedelta(seconds=60)  # for a process that is late; then an error


def network():
    """A small convolutional network; the same weights at each call."""
    torch.manual_seed(0)
    layers = []
    for before, after in ((1, 16), (16, 32)):
        layers += nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 4, 10)).double()


def scans():
    """((x, labels) for training, (x, labels) for testing)."""
    pairs = [map(torch.from_numpy, pair) for pair in load_scans()]
    return [(x.double().reshape(-1, 1, 8, 8), labels) for x, labels in pairs]


def train(model, steps, rank=None):
    """Learn from whole batches, or from a process's part of each: the losses of whole batches."""
    (x, labels), _ = scans()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    draw, losses = torch.Generator().manual_seed(1), []  # the same batches in each process
    for _ in range(steps):
        rows = torch.randperm(len(x), generator=draw)[:BATCH]
        if rank is not None:
            rows = rows.split(PARTS)[rank]
        loss = nn.functional.cross_entropy(model(x[rows]), labels[rows], reduction="sum") / BATCH
        optimiser.zero_grad()
        # DistributedDataParallel averages gradients, and parts are unequal: so the sum is meant.
        (loss if rank is None else RANKS * loss).backward()
        optimiser.step()
        losses.append(loss.detach())
    losses = torch.stack(losses)
    if rank is not None:
        distributed.all_reduce(losses)
    return losses


def work(rank, folder, steps):
    """What each of the processes does; the first keeps what came of it."""
    torch.set_num_threads(1)  # as many processes as this share the processor
    # Processes meet at a file: no port can be taken. On several machines: "tcp://host:port".
    meeting = {"init_method": f"file://{folder}/meeting", "timeout": WAIT}
    distributed.init_process_group("gloo", rank=rank, world_size=RANKS, **meeting)
    for name, sync in ((OWN, False), (SYNC, True)):
        model = network()
        if sync:
            convert(model, sync=True)
        losses = train(DistributedDataParallel(model), steps, rank)
        if rank == 0:
            torch.save((losses, model.state_dict()), Path(folder, name))
    distributed.destroy_process_group()


def run(steps):
    """{way: (losses, state)} of all three ways to train."""
    torch.set_num_threads(1)
    model = network()
    found = {ONE: (train(model, steps), model.state_dict())}
    with tempfile.TemporaryDirectory() as folder:
        # If one process ends with an error, the others are ended and this raises it.
        multiprocessing.spawn(work, (folder, steps), nprocs=RANKS)
        return found | {name: torch.load(Path(folder, name)) for name in (OWN, SYNC)}


def accuracy(state):
    """Of a network in evaluation, on the scans that it has not seen."""
    _, (x, labels) = scans()
    model = network().eval()
    model.load_state_dict(state)
    with torch.no_grad():
        return (model(x).argmax(1) == labels).double().mean().item()


def summary(losses, state, expected):
    """The last losses, the distance of losses and running statistics from one process, accuracy."""
    other_losses, other = expected
    running = [key for key in state if "running" in key]
    return {
        "loss": losses[-10:].mean().item(),
        "losses apart": (losses - other_losses).abs().max().item(),
        "statistics apart": max((state[k] - other[k]).abs().max().item() for k in running),
        "accuracy": accuracy(state),
    }


def table(results):
    """A row per way to train."""
    made = Table(title=TITLE, box=SIMPLE_HEAD)
    made.add_column("training")
    for heading in ("last loss", "losses apart", "statistics apart", "accuracy"):
        made.add_column(heading, justify="right")
    for name, row in results.items():
        apart = [f"{row[key]:.1e}" for key in ("losses apart", "statistics apart")]
        made.add_row(name, f"{row['loss']:.4f}", *apart, f"{row['accuracy']:.1%}")
    return made


def main():
    """Read the command line, train, report."""
    parser = command_line.new_parser(__doc__, "torch_sync.png", "a few steps, to see it work")
    parser.add_argument("--steps", type=int, default=150, help="training steps")
    options = parser.parse_args()
    found = run(min(options.steps, 20) if options.quick else options.steps)
    losses = {name: result[0].numpy() for name, result in found.items()}
    console = Console()
    console.print(table({name: summary(*result, found[ONE]) for name, result in found.items()}))
    console.print(sync_report.sentence(losses))
    sync_report.draw(losses, TITLE, options.output)
    console.print(f"Picture: {options.output}", soft_wrap=True)
    sync_report.check(losses)


if __name__ == "__main__":
    main()
