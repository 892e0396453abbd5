"""Times of one shape on the machine at hand, beside a plain copy and PyTorch."""

from collections.abc import Callable
from importlib.util import find_spec
from statistics import median
from time import perf_counter

import numpy as np

import fastbn

TURN = 0.02  # seconds that a call repeats: threads of the one before fall asleep meanwhile
# Arrays of x's size that a call reads or writes at least once.
MOVED = {"forward": 2, "backward": 3, "evaluation": 2}

Calls = dict[str, Callable[[], object]]


def _fastbn(x: np.ndarray, dy: np.ndarray, axis: int) -> Calls:
    saved = fastbn.forward(x, channel_axis=axis)[1]  # which checks the axis
    weight, bias, mean, var = np.ones((4, x.shape[axis]), x.dtype)
    return {
        "forward": lambda: fastbn.forward(x, weight, bias, channel_axis=axis),
        "backward": lambda: fastbn.backward(dy, saved),
        "evaluation": lambda: fastbn.batch_norm(x, mean, var, weight, bias, channel_axis=axis),
    }


def _copy(x: np.ndarray, dy: np.ndarray, axis: int) -> Calls:
    """Copies that read and write as many bytes as the operation."""
    return {name: np.ones(n * x.nbytes // 2, np.uint8).copy for name, n in MOVED.items()}


def _torch(x: np.ndarray, dy: np.ndarray, axis: int) -> Calls:
    """The operators beneath PyTorch's layers, on the same memory."""
    import torch

    torch.set_num_threads(fastbn.get_num_threads())
    xt, dyt = (torch.from_numpy(np.moveaxis(a, axis, 1)) for a in (x, dy))
    weight, bias, mean, var = torch.ones((4, xt.shape[1]), dtype=xt.dtype)

    def forward(training=True):
        return torch.native_batch_norm(xt, weight, bias, mean, var, training, 0.0, 1e-5)

    saved = forward()[1:]
    backward = torch.ops.aten.native_batch_norm_backward
    given = dyt, xt, weight, mean, var, *saved, True, 1e-5, [True] * 3
    return {
        "forward": forward,
        "backward": lambda: backward(*given),
        "evaluation": lambda: forward(training=False),
    }


def _interleaved(calls: list[Callable[[], object]], seconds: float) -> list[list[float]]:
    """Seconds of every repeat of each call, in turns: what slows the machine slows them all."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()  # compiles
    stop = perf_counter() + seconds
    while not times[0] or perf_counter() < stop:
        for call, found in zip(calls, times, strict=True):
            before = start = perf_counter()
            while before < start + TURN:
                call()
                now = perf_counter()
                found.append(now - before)
                before = now
    return times


def bench(
    shape: tuple[int, ...], dtype: str, channel_axis: int, threads: int | None, seconds: float
) -> None:
    """Print a table of times, each of a call that allocates its output."""
    if threads is not None:
        fastbn.set_num_threads(threads)
    x, dy = np.random.default_rng(0).standard_normal((2, *shape)).astype(dtype)
    libraries = {"fastbn": _fastbn, "NumPy's copy": _copy}
    if find_spec("torch"):
        libraries["PyTorch"] = _torch
    made = {name: make(x, dy, channel_axis) for name, make in libraries.items()}
    rows = [(operation, library) for operation in MOVED for library in libraries]
    times = _interleaved([made[library][operation] for operation, library in rows], seconds)

    info = fastbn.config_info()
    print(f"{shape} {dtype}, {x.nbytes / 1e6:.3g} MB, channel axis {channel_axis}")
    print(f"{info['cpu']}, threads: {info['threads']}\n")
    print(f"{'operation':12}{'library':14}{'least us':>12}{'median us':>12}{'GB/s':>8}")
    for (operation, library), found in zip(rows, times, strict=True):
        speed = MOVED[operation] * x.nbytes / min(found) / 1e9
        figures = f"{1e6 * min(found):12,.1f}{1e6 * median(found):12,.1f}{speed:8.1f}"
        print(f"{operation:12}{library:14}{figures}")
    print("\nGB/s of what a call has to read and write at least; the copy moves as many bytes.")
