"""PyTorch's batch norm modules with fastbn beneath: subclasses, so that all else is PyTorch's."""

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from . import _functional, _sync


class _Fast:
    """What a batch norm of PyTorch becomes: its `forward` alone is another."""

    _check_input_dim: Any
    _parameters: dict[str, Tensor | None]
    _buffers: dict[str, Tensor | None]
    training: bool
    track_running_stats: bool
    momentum: float | None
    eps: float
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        activation: str | None = None,
        negative_slope: float = 0.01,
        in_place: bool = False,
    ) -> Tensor:
        """Normalise; add a residual and apply an activation, which is what fused models ask for."""
        self._check_input_dim(input)
        given = *self._given(), residual, activation, negative_slope, in_place
        return _functional.fused(input, *given)

    def _given(self) -> tuple[Any, ...]:
        """What a batch is normalised with: of `fused`, from the running statistics to the count."""
        training, parameters, buffers, count = self.training, self._parameters, self._buffers, None
        try:  # where they are, in a third of the time that attributes take
            weight, bias = parameters["weight"], parameters["bias"]
            mean, var = buffers["running_mean"], buffers["running_var"]
        except KeyError:  # parametrized, or pruned
            weight, bias, mean, var = self.weight, self.bias, self.running_mean, self.running_var
        of_batch = training or (mean is None and var is None)
        if training and self.track_running_stats:
            count = self.num_batches_tracked
            if count is not None:
                count.add_(1)
        elif training:
            mean = var = None
        return mean, var, weight, bias, of_batch, self.momentum, self.eps, count


class BatchNorm1d(_Fast, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d`, on the CPU by fastbn.

    Examples
    --------
    >>> import torch
    >>> from fastbn.adapters.torch import BatchNorm1d
    >>> BatchNorm1d(2)(torch.tensor([[1.0, 10.0], [3.0, 30.0]])).round(decimals=3)
    tensor([[-1., -1.],
            [ 1.,  1.]], grad_fn=<RoundBackward1>)
    """


class BatchNorm2d(_Fast, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, on the CPU by fastbn."""


class BatchNorm3d(_Fast, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d`, on the CPU by fastbn."""


class LazyBatchNorm1d(_Fast, nn.LazyBatchNorm1d):
    """`torch.nn.LazyBatchNorm1d`: a `BatchNorm1d` after its first input."""

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(_Fast, nn.LazyBatchNorm2d):
    """`torch.nn.LazyBatchNorm2d`: a `BatchNorm2d` after its first input."""

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(_Fast, nn.LazyBatchNorm3d):
    """`torch.nn.LazyBatchNorm3d`: a `BatchNorm3d` after its first input."""

    cls_to_become = BatchNorm3d


class SyncBatchNorm(_BatchNorm):
    """`torch.nn.SyncBatchNorm`, on CPUs too: one batch norm over the batches of all processes.

    In training, where `torch.distributed` is initialised, the processes gather each other's
    statistics in one message, and in the backward pass add up two sums a channel in another one.
    Batches may differ in size and be empty; a single value a channel is refused if all of them
    together have no more. Gradients of weight and bias are those of the process's own batch: what
    averages gradients, such as `torch.nn.parallel.DistributedDataParallel`, averages these. All
    processes have to call it, and the backward pass, the same number of times: others raise an
    error when the group's time-out is over, or the process that they wait for ends. Second
    derivatives are refused. Tensors that are not on CPUs are computed as PyTorch's module does, of
    which this is no subclass: `DistributedDataParallel` takes none of those on CPUs.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        As those of `torch.nn.SyncBatchNorm`.
    process_group : ProcessGroup, optional
        Those that normalise together; by default all.
    """

    process_group: Any
    _given = _Fast._given
    _check_input_dim = nn.SyncBatchNorm._check_input_dim
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        given = num_features, eps, momentum, affine, track_running_stats, device, dtype
        super().__init__(*given, bias=bias)
        self.process_group = process_group

    def forward(self, input: Tensor) -> Tensor:
        if not input.is_cpu:
            return nn.SyncBatchNorm.forward(self, input)
        self._check_input_dim(input)
        self._check_non_zero_input_channels(input)
        group = _sync.group(self.process_group) if self.training else None
        given = self._given()
        if group is None:
            return _functional.fused(input, *given)
        mean, var, weight, bias, _, momentum, eps, count = given
        return _sync.batch_norm(input, mean, var, weight, bias, momentum, eps, count, group)
