"""Train on several MPI ranks with small batches: batch norm of each one's own, and of all together.

    mpirun -n 4 python examples/mpi_sync.py [--steps 200] [--output mpi_sync.png] [--quick]

A batch of 48 scikit-learn digits is split over the ranks in unequal parts: 3, 9, 15 and 21 of four.
A network of five hidden layers learns once with `fastbn.BatchNorm`, each rank by the mean and
variance of its own few scans, and once with `SyncBatchNorm`, by those of all 48. Rank 0 then learns
from whole batches alone, which shows what should come out. Without mpirun, there is one rank.

Where there are fewer cores than ranks, Open MPI's mpirun asks for the first of these settings. The
second has ranks that wait leave the core to others. Root needs the last two.

    export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe OMPI_MCA_mpi_yield_when_idle=1
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
"""

import contextlib
import io
import itertools
import sys

import command_line
import numpy as np
import sync_report
from digits_data import load_scans
from digits_network import Network
from mpi4py import MPI
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from sync_report import ONE, OWN, SYNC
from threadpoolctl import threadpool_limits

import fastbn
from fastbn.adapters.mpi import SyncBatchNorm

COMM = MPI.COMM_WORLD
BATCH = 48
SIZES = 64, 50, 50, 50, 50, 50, 10
CUTS = [round(BATCH * (rank / COMM.size) ** 2) for rank in range(COMM.size + 1)]
PARTS = ", ".join(str(b - a) for a, b in itertools.pairwise(CUTS))
TITLE = f"Batches of {BATCH} digits on {COMM.size} ranks: {PARTS}"


class DoubleNetwork(Network):
    """The network in float64, with a batch norm of some kind; the same weights at each call."""

    def __init__(self, norm):
        super().__init__(SIZES, "ReLU", np.float32(0.1), False, np.random.default_rng(0))
        self.weights = [w.astype(np.float64) for w in self.weights]
        self.biases = [b.astype(np.float64) for b in self.biases]
        # This convention accepts a part of one scan. Its momentum weighs the old value.
        same = {"dtype": np.float64, "convention": "flax"}
        self.norms = [norm(n, momentum=0.9, **same) for n in SIZES[1:-1]]


def summed(gradients):
    """The gradients of the whole batch, from those of each rank's part: one message for all."""
    flat = np.concatenate([g.ravel() for layer in gradients for g in layer])
    COMM.Allreduce(MPI.IN_PLACE, flat)
    ends = np.cumsum([g.size for layer in gradients for g in layer])[:-1]
    parts = iter(np.split(flat, ends))
    return [[next(parts).reshape(g.shape) for g in layer] for layer in gradients]


def train(network, steps, parts, rate=0.1):
    """Learn from whole batches, or from this rank's part of each: the losses of whole batches."""
    (x, labels), _ = load_scans()
    rng, losses = np.random.default_rng(1), np.empty(steps)  # the same batches on each rank
    for step in range(steps):
        rows = rng.choice(len(x), BATCH, replace=False)
        if parts:
            rows = rows[CUTS[COMM.rank] : CUTS[COMM.rank + 1]]
        given = x[rows].astype(np.float64), labels[rows]
        losses[step], gradients = network.gradients(*given, count=BATCH)  # this part's share
        for layer, gradient in enumerate(summed(gradients) if parts else gradients):
            network.step(layer, gradient, rate)
    if parts:
        COMM.Allreduce(MPI.IN_PLACE, losses)
    return losses


def run(steps):
    """{way: (losses, accuracy)} of all three ways to train, on each rank."""
    found = {}
    for name, norm in ((OWN, fastbn.BatchNorm), (SYNC, SyncBatchNorm), (ONE, fastbn.BatchNorm)):
        result = None
        if name != ONE or COMM.rank == 0:
            network = DoubleNetwork(norm)
            losses = train(network, steps, parts=name != ONE)
            result = losses, network.accuracy(*load_scans()[1])
        found[name] = COMM.bcast(result)
    return found


def table(losses, accuracies):
    """A row per way to train."""
    made = Table(title=TITLE, box=SIMPLE_HEAD)
    made.add_column("training")
    for heading in ("last loss", "losses apart", "accuracy"):
        made.add_column(heading, justify="right")
    for name in sync_report.WAYS:
        last, far = losses[name][-10:].mean(), sync_report.apart(losses, name).max()
        made.add_row(name, f"{last:.4f}", f"{far:.1e}", f"{accuracies[name]:.1%}")
    return made


def read_command_line():
    """The options; rank 0 alone says what is wrong with them."""
    parser = command_line.new_parser(__doc__, "mpi_sync.png", "a few steps, to see it work")
    parser.add_argument("--steps", type=int, default=200, help="training steps")
    with contextlib.redirect_stderr(io.StringIO() if COMM.rank else sys.stderr):
        return parser.parse_args()


def report(losses, accuracies, path):
    """A table, a sentence and a picture."""
    console = Console()
    console.print(table(losses, accuracies))
    console.print(sync_report.sentence(losses))
    sync_report.draw(losses, TITLE, path)
    console.print(f"Picture: {path}", soft_wrap=True)


def main():
    """Read the command line, train, report."""
    options = read_command_line()
    with threadpool_limits(1):  # as many processes as this share the processor
        found = run(min(options.steps, 30) if options.quick else options.steps)
    losses, accuracies = ({name: pair[i] for name, pair in found.items()} for i in (0, 1))
    if COMM.rank == 0:
        report(losses, accuracies, options.output)
    sync_report.check(losses)


if __name__ == "__main__":
    main()
