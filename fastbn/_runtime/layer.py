"""Numba's threading layer: which one fastbn starts, and what its start leaves as it was."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numba
from numba.core import config

from . import neighbours

# Numba's own order begins with tbb, whose launches take 1.5 to 3 times as long as omp's.
NUMBAS, OURS = ["tbb", "omp", "workqueue"], ["omp", "tbb", "workqueue"]
NOT_OMP = {"tbb", "workqueue", "safe"}  # what may be asked for that never is omp
_from = ""  # what chose the layer, if fastbn has started it


def _started() -> str:
    """The layer in use; empty as long as none is."""
    try:
        return numba.threading_layer()
    except ValueError:
        return ""


def _users() -> str:
    """Where the user has chosen a layer; empty where nobody has."""
    for name in ("THREADING_LAYER", "THREADING_LAYER_PRIORITY"):
        if f"NUMBA_{name}" in os.environ:
            return f"NUMBA_{name}"
    asked = str(config.THREADING_LAYER).lower(), list(config.THREADING_LAYER_PRIORITY)
    return "" if asked == ("default", NUMBAS) else "numba.config"


def name() -> str:
    """The layer in use, else the one that is asked for."""
    asked = config.THREADING_LAYER if _users() else OURS[0]
    return _started() or f"{asked} (not started)"


def decided_by() -> str:
    """What chose the layer."""
    if _started():
        return _from or "started before"
    return _users() or "fastbn prefers omp"


@contextmanager
def _omp_first() -> Iterator[None]:
    """Have Numba try omp before the other layers."""
    before, config.THREADING_LAYER_PRIORITY = config.THREADING_LAYER_PRIORITY, list(OURS)
    try:
        yield
    finally:
        config.THREADING_LAYER_PRIORITY = before


def start() -> None:
    """Start the layer unless one is in use; OpenMP's settings are as before."""
    global _from
    if _started():
        return
    chosen_by, asked = decided_by(), str(config.THREADING_LAYER).lower()
    with (
        nullcontext() if asked in NOT_OMP else neighbours.openmp_as_before(),
        nullcontext() if _users() else _omp_first(),
    ):
        numba.get_num_threads()
    _from = chosen_by
