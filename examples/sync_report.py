"""What torch_sync.py and mpi_sync.py show of three ways to train: a picture and a sentence."""

import numpy as np
from matplotlib.figure import Figure

WAYS = ONE, OWN, SYNC = "1 process", "BatchNorm of each", "SyncBatchNorm"
STYLES = {  # colours told apart with any kind of colour vision
    ONE: {"color": "0.75", "linewidth": 5},
    OWN: {"color": "#D55E00", "linewidth": 1.3},
    SYNC: {"color": "#0072B2", "linewidth": 1.8, "linestyle": "--"},
}
ALLOWED = 1e-6  # of a loss: rounding errors, which training amplifies
LEAST = 1e-17  # where 0 is drawn on a scale that has none


def apart(losses, name):
    """How far a way's losses are from those of one process, step by step."""
    return np.abs(np.subtract(losses[name], losses[ONE]))


def sentence(losses):
    """The largest distances."""
    near, far = (apart(losses, name).max() for name in (SYNC, OWN))
    return f"Losses are those of 1 process to {near:.0e} with SyncBatchNorm, else {far:.0e}"


def check(losses):
    """End the program where SyncBatchNorm has not done what it is for."""
    if not apart(losses, SYNC).max() <= ALLOWED:
        raise SystemExit("with SyncBatchNorm, losses should be those of one process")


def draw(losses, title, path):
    """Save {way: losses}: the curves on top of each other, and their distances from the first's."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    figure.suptitle(title)
    curves, distances = figure.subplots(1, 2)
    steps = np.arange(1, len(losses[ONE]) + 1)
    for name in WAYS:
        curves.plot(steps, losses[name], label=name, **STYLES[name])
    for name in (OWN, SYNC):
        distances.semilogy(steps, np.maximum(apart(losses, name), LEAST), **STYLES[name])
    curves.set(title="loss of the whole batch", xlabel="training step", ylim=(0, None))
    distances.set(title="distance from the loss of 1 process", xlabel="training step")
    for axis in (curves, distances):
        axis.locator_params(axis="x", integer=True)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(WAYS), frameon=False)
    figure.savefig(path, dpi=130)
