"""Batch normalization for NumPy on the CPU: fast, exact, and the same bits every time."""

import os as _os
import threading as _threading

import lazy_loader as _lazy

from ._version import __version__ as __version__

_attribute, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "_config": ["config_info"],
        "_threads": ["get_num_threads", "set_num_threads"],
        "cs231n": [
            "batchnorm_backward",
            "batchnorm_backward_alt",
            "batchnorm_forward",
            "spatial_batchnorm_backward",
            "spatial_batchnorm_forward",
        ],
        "functional": ["batch_norm", "normalize"],
        "gradients": ["backward", "forward"],
        "layers": ["BatchNorm"],
        "ranked": ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"],
        "stats": ["Stats", "batch_stats", "merge_stats", "update_running_stats"],
    },
)

_importing = _threading.RLock()


def __getattr__(name: str):
    with _importing:
        value = globals()[name] = _attribute(name)  # kept: looking it up anew takes a microsecond
    return value


if hasattr(_os, "register_at_fork"):
    # The first use of a name imports Numba, for a second: a child that another thread forks in it
    # would wait for ever for the import to end.
    _os.register_at_fork(
        before=_importing.acquire,
        after_in_parent=_importing.release,
        after_in_child=_importing.release,
    )
