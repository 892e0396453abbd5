"""Normalise an array that no memory holds: batch norm of a Dask array, forward and backward.

    python examples/dask_normalize.py [--size 4GB] [--limit 1GiB] [--output dask_normalize.png]
                                      [--quick]

The data are like those of a satellite with eight infrared bands: brightness temperatures around 280
kelvin, whose spread is a hundredth of a kelvin in one band and 4 kelvin in another, as float32,
(scenes, bands, 256, 256). A task makes a chunk by its number, as it would read a file. The workers'
memory limit is a fraction of the array's size, and nothing may be spilled to disk. The picture has
the worker's memory over time beside both.
"""

import sys
import time
from pathlib import Path

import command_line
import dask
import dask.array as da
import numpy as np
from dask.utils import format_bytes, parse_bytes
from distributed import Client, LocalCluster, progress
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fastbn.adapters.dask import batch_norm, batch_norm_backward, batch_stats

BANDS, SIDE, SCENES = 8, 256, 8  # scenes of a chunk, which has 16 MiB
SPREADS = np.geomspace(0.01, 4.0, BANDS)
OFFSET, EPS = 280.0, 1e-8  # the variance of one band is 1e-4
# What is spilled to disk is no proof. A worker that has too much stops, or is ended.
SETTINGS = {
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    "distributed.admin.system-monitor.interval": "50ms",
}


def scenes(block_info=None):
    """One chunk: Gaussian fields with a gradient from north to south."""
    number = block_info[None]["chunk-location"][0]
    shape = block_info[None]["chunk-shape"]
    made = np.random.default_rng(number).standard_normal(shape, np.float32)
    made += np.linspace(-1.0, 1.0, SIDE, dtype=np.float32)[:, None]
    made *= SPREADS.astype(np.float32)[:, None, None]
    made += np.float32(OFFSET)
    return made


def array(size):
    """The array, of which nothing is made yet."""
    count = max(2, round(size / (4 * SCENES * BANDS * SIDE * SIDE)))
    chunks = (SCENES,) * count, BANDS, SIDE, SIDE
    chunks = da.core.normalize_chunks(chunks, (SCENES * count, BANDS, SIDE, SIDE))
    return da.map_blocks(scenes, chunks=chunks, dtype=np.float32, meta=np.empty((0,) * 4, "f4"))


def exact(count):
    """Mean and variance of each band of all chunks, by sums of integers: nothing is rounded.

    Values are multiples of 2^-30 below 2^9, so that their integers have 39 bits.
    """
    n, total, squares = 0, np.zeros(BANDS, object), np.zeros(BANDS, object)
    for number in range(count):
        info = {None: {"chunk-location": (number,), "chunk-shape": (SCENES, BANDS, SIDE, SIDE)}}
        whole = (np.float64(scenes(info)) - OFFSET) * 2.0**30
        for band in range(BANDS):
            values = np.rint(whole[:, band]).astype(np.int64).ravel()
            high, low = values >> 20, values & ((1 << 20) - 1)
            total[band] += int(values.sum())
            squares[band] += int((high * high).sum()) << 40
            squares[band] += int((high * low).sum()) << 21
            squares[band] += int((low * low).sum())
        n += values.size
    mean = [OFFSET + t / n / 2**30 for t in total]
    var = [(n * s - t * t) / n**2 / 2**60 for s, t in zip(squares, total, strict=True)]
    return np.array(mean, float), np.array(var, float)


def peak():
    """The most memory that this process has had, in bytes."""
    status = Path("/proc/self/status")  # on Linux, the other figure has the parent's, too
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) << 10
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def watched(dask_worker):
    """What a worker's monitor has seen: (seconds since 1970, bytes)."""
    seen = dask_worker.monitor.range_query(0)
    return np.array(seen["time"]), np.array(seen["memory"])


def plain(x):
    """Mean and standard deviation as Dask's own methods give them."""
    return x.mean(axis=(0, 2, 3)), x.std(axis=(0, 2, 3))


def run(client, x):
    """Everything in memory that is small: sums of outputs and gradients, and statistics."""
    weight = np.linspace(0.5, 2.0, BANDS)
    y = batch_norm(x, weight, eps=EPS)
    dx, dweight, dbias = batch_norm_backward(y * y, x, weight, eps=EPS)
    wanted = y.std(axis=(0, 2, 3)), abs(dx).max(), dweight, dbias, batch_stats(x), plain(x)
    started = time.perf_counter()
    futures = client.compute(wanted)
    if sys.stdout.isatty():
        progress(futures, notebook=False)
        print()
    results = client.gather(futures)
    return results, time.perf_counter() - started


def report(x, limit, results, seconds, memory):
    """A dictionary of figures."""
    deviation, largest, *_, stats, (mean, std) = results
    true_mean, true_var = exact(x.numblocks[0])
    spread = np.sqrt(true_var)
    expected = np.linspace(0.5, 2.0, BANDS) * np.sqrt(true_var / (true_var + EPS))
    return {
        "array, bytes": x.nbytes,
        "limit of a worker, bytes": limit,
        "peak of a worker, bytes": memory,
        "seconds": seconds,
        "largest |dx|": float(largest),
        "output deviation off": float(abs(deviation / expected - 1).max()),
        "mean off, deviations": float((abs(stats.mean - true_mean) / spread).max()),
        "variance off, relative": float((abs(stats.var() - true_var) / true_var).max()),
        "Dask: mean off, deviations": float((abs(mean - true_mean) / spread).max()),
        "Dask: variance off, relative": float((abs(np.float64(std) ** 2 / true_var - 1)).max()),
    }


def table(found):
    """A row for each figure."""
    made = Table(title="Batch norm of a Dask array", box=SIMPLE_HEAD, show_header=False)
    made.add_column("figure")
    made.add_column("value", justify="right")
    for name, value in found.items():
        text = format_bytes(int(value)) if "bytes" in name else f"{value:.3g}"
        made.add_row(name.removesuffix(", bytes"), text)
    return made


def draw(found, seconds, memory, path):
    """Save the worker's memory over time, below its limit and the array's size."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.fill_between(seconds, memory / 2**30, color="#56B4E9", linewidth=0)
    axis.plot(seconds, memory / 2**30, color="#0072B2", linewidth=1.2)
    lines = {
        "the array": (found["array, bytes"], "0.3"),
        "the worker's limit": (found["limit of a worker, bytes"], "#D55E00"),
        "its peak": (found["peak of a worker, bytes"], "#0072B2"),
    }
    for name, (size, colour) in lines.items():
        axis.axhline(size / 2**30, color=colour, linestyle="--", linewidth=1.2)
        text = f"{name}, {format_bytes(int(size))}"
        axis.annotate(text, (0, size / 2**30), (6, 4), color=colour, textcoords="offset points")
    axis.set_title("Batch norm of a Dask array, forward and backward: memory of the worker")
    axis.set(xlabel="seconds", ylabel="GiB", xlim=(0, seconds[-1]), ylim=(0, None))
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def read_command_line():
    """The output, the array's size and the worker's limit."""
    parser = command_line.new_parser(__doc__, "dask_normalize.png", "1 GB under 600 MiB")
    parser.add_argument("--size", type=parse_bytes, default="4GB", help="of the array")
    parser.add_argument("--limit", type=parse_bytes, default="1GiB", help="of a worker")
    options = parser.parse_args()
    if options.quick:
        options.size, options.limit = parse_bytes("1GB"), parse_bytes("600MiB")
    return options.output, options.size, options.limit


def main():
    """Read the command line, compute, report."""
    output, size, limit = read_command_line()
    x = array(size)
    with (
        dask.config.set(SETTINGS),
        LocalCluster(
            n_workers=1, threads_per_worker=2, memory_limit=limit, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        results, seconds = run(client, x)
        memory = max(client.run(peak).values())
        (times, sizes), *_ = client.run(watched).values()
    found = report(x, limit, results, seconds, memory)
    console = Console()
    console.print(table(found))
    draw(found, times - times[0], sizes, output)
    console.print(f"Picture: {output}", soft_wrap=True)
    if memory > limit:
        raise SystemExit("a worker has had more memory than its limit")
    if max(found["mean off, deviations"], found["variance off, relative"]) > 3e-8:
        raise SystemExit("statistics should be exact to 3e-8")


if __name__ == "__main__":
    main()
