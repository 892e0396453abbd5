"""Batch normalization for NumPy on the CPU: fast, exact, and the same bits every time."""

import os as _os
import sys as _sys
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


_held: list = []  # the compiler's lock, or None, of a fork under way


def _before_fork() -> None:
    """A child that another thread forks while Numba is imported or compiles would wait for ever."""
    _importing.acquire()
    jit = _sys.modules.get("fastbn._jit")  # looked up now: it may have come while this one waited
    compiling = getattr(jit, "global_compiler_lock", None)
    if compiling is not None:
        compiling.acquire()
    _held.append(compiling)


def _after_fork() -> None:
    compiling = _held.pop()
    if compiling is not None:
        compiling.release()
    _importing.release()


if hasattr(_os, "register_at_fork"):
    _os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )
