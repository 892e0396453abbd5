"""PyTorch's batch norms on the CPU: its modules, its function, and a model's conversion.

Outputs, gradients and buffers mean what they mean in `torch.nn`. What fastbn does not take, such as
tensors on other devices, goes on to PyTorch's own function.
"""

try:
    import ml_dtypes as _ml_dtypes  # noqa: F401 - bfloat16
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        "fastbn.adapters.torch needs PyTorch and ml_dtypes: pip install 'fastbn[torch]'"
    ) from error

from ._convert import convert, revert
from ._functional import batch_norm
from ._modules import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    LazyBatchNorm1d,
    LazyBatchNorm2d,
    LazyBatchNorm3d,
    SyncBatchNorm,
)

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "SyncBatchNorm",
    "batch_norm",
    "convert",
    "revert",
]
