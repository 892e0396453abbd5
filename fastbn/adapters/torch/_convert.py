"""A model's batch norms become fastbn's, and PyTorch's again."""

from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.nn.modules.lazy import LazyModuleMixin

from . import _fuse
from . import _modules as ours

# By PyTorch's modules; not by classes derived from them, whose `forward` may be another.
_OURS: dict[type, type] = {
    nn.BatchNorm1d: ours.BatchNorm1d,
    nn.BatchNorm2d: ours.BatchNorm2d,
    nn.BatchNorm3d: ours.BatchNorm3d,
    nn.LazyBatchNorm1d: ours.LazyBatchNorm1d,
    nn.LazyBatchNorm2d: ours.LazyBatchNorm2d,
    nn.LazyBatchNorm3d: ours.LazyBatchNorm3d,
    nn.SyncBatchNorm: ours.SyncBatchNorm,
}
_THEIRS = {fast: theirs for theirs, fast in _OURS.items()}
_SYNC = nn.SyncBatchNorm, ours.SyncBatchNorm
_BEFORE = "_fastbn_before"  # what a synchronised module was


def convert(model: nn.Module, *, sync: bool = False, fuse: bool = False) -> nn.Module:
    """Have a model's batch norms computed by fastbn on CPUs.

    Parameters
    ----------
    model : Module
        Its batch norms (PyTorch's ``BatchNorm1d``, ``2d``, ``3d``, their lazy forms and
        ``SyncBatchNorm``; not classes derived from them) are replaced in place by modules that
        share parameters, buffers, hooks and all else with them. Lazy ones have to see an input
        before `fuse`.
    sync : bool, default False
        Replace them by `SyncBatchNorm`, whose statistics are those of all processes.
    fuse : bool, default False
        Leave the model as it is, and return a `torch.fx.GraphModule` of the same parameters,
        buffers and state keys, in which a batch norm with the ReLU or LeakyReLU that follows it, or
        with an addition and the ReLU that follows that, is one pass, wherever nothing else reads
        the values in between.

    Returns
    -------
    Module
        The model itself; of a model that is a batch norm, the new one; with `fuse`, the graph
        module, whose ``meta["fastbn"]`` lists each batch norm and with what it was fused, or why
        not.

    Raises
    ------
    TypeError
        If `model` is not a module.
    ValueError
        With `fuse`, if the model cannot be traced: its operations depend on values or on
        ``self.training``, its constants are random, modules that are traced through have hooks, a
        module is lazy yet, or the model has a ``train()`` of its own; or with `sync` besides.

    Examples
    --------
    >>> from torch import nn
    >>> from fastbn.adapters.torch import convert, revert
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> convert(model) is model, type(model[1]).__module__.split(".")[0]
    (True, 'fastbn')
    >>> revert(model) is model, type(model[1]).__module__.split(".")[0]
    (True, 'torch')
    >>> fused = convert(model, fuse=True)
    >>> print(*fused.meta["fastbn"], sep="\\\\n")
    1: fused with relu
    """
    _check(model)
    if fuse and sync:
        raise ValueError(
            "fuse should be False with sync=True: a fused batch norm is of one process"
        )
    if fuse:
        return _replace(_fuse.fused(model), lambda module: _converted(module, False))
    return _replace(model, lambda module: _converted(module, sync))


def revert(model: nn.Module) -> nn.Module:
    """Undo `convert`: have a model's batch norms computed by PyTorch.

    Parameters
    ----------
    model : Module
        Its modules of fastbn are replaced in place by PyTorch's that they were, or would have been;
        in a model that `convert` fused, operations are separate again.

    Returns
    -------
    Module
        The model itself; of a model that is a batch norm, the new one.

    Raises
    ------
    TypeError
        If `model` is not a module.
    """
    _check(model)
    for module in model.modules():
        if isinstance(module, fx.GraphModule):
            _fuse.separate(module)
    return _replace(model, _reverted)


def _check(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model should be a torch.nn.Module, got {type(model).__name__}")


def _converted(module: nn.Module, sync: bool) -> nn.Module:
    """A batch norm's successor; any other module itself."""
    kind = type(module)
    if sync and kind not in _SYNC and (kind in _OURS or kind in _THEIRS):
        if isinstance(module, LazyModuleMixin):
            raise ValueError(f"model should have seen an input before sync=True, got {module}")
        made = _same(module, ours.SyncBatchNorm)
        made.process_group = None
        setattr(made, _BEFORE, _THEIRS.get(kind, kind))
        return made
    return _same(module, _OURS[kind]) if kind in _OURS else module


def _reverted(module: nn.Module) -> nn.Module:
    """What a module of fastbn was; any other module itself."""
    kind = type(module)
    if kind not in _THEIRS:
        return module
    before = getattr(module, _BEFORE, None)
    made = _same(module, before or _THEIRS[kind])
    if before is not None:
        del made.process_group
        delattr(made, _BEFORE)
    return made


def _same(module: nn.Module, kind: type) -> nn.Module:
    """A module of another class that shares parameters, buffers and hooks: the dicts themselves."""
    made: nn.Module = object.__new__(kind)
    made.__dict__.update(module.__dict__)
    return made


def _replace(model: nn.Module, successor: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Put its successor in each module's place; one that is in several places stays one."""
    modules = list(model.modules())
    made = {module: successor(module) for module in modules}  # all, or an error
    for module in modules:
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = made[child]
    return made[model]
