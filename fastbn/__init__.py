"""Batch normalization for NumPy on the CPU: fast, exact, and the same bits every time."""

import lazy_loader as _lazy

from ._runtime import forks as _forks
from ._runtime import neighbours as _neighbours
from ._version import __version__ as __version__

_attribute, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "_runtime.info": ["config_info"],
        "_runtime.threads": ["get_num_threads", "set_num_threads", "threads"],
        "cs231n": [
            "batchnorm_backward",
            "batchnorm_backward_alt",
            "batchnorm_forward",
            "spatial_batchnorm_backward",
            "spatial_batchnorm_forward",
        ],
        "fold": ["fold_conv", "fold_linear"],
        "functional": ["Saved", "backward", "batch_norm", "denormalize", "forward", "normalize"],
        "layers": ["BatchNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "BatchRenorm"],
        "population": ["covariate_shift", "population_stats"],
        "second": ["double_backward"],
        "split": ["GradSums", "backward_input", "backward_sums"],
        "stats": ["Stats", "batch_stats", "merge_stats", "update_running_stats"],
    },
)

_neighbours.watch()


def __getattr__(name: str):
    with _forks.importing:
        value = globals()[name] = _attribute(name)  # kept: looking it up anew takes a microsecond
    return value
