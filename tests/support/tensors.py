"""Tensors to test PyTorch's adapter with: import it behind ``pytest.importorskip("torch")``."""

import ml_dtypes
import numpy as np
import torch
from agreement import HALVES
from torch.utils._python_dispatch import TorchDispatchMode

NUMPY = {
    torch.float64: np.dtype(np.float64),
    torch.float32: np.dtype(np.float32),
    torch.float16: np.dtype(np.float16),
    torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
}


def array(x):
    """A tensor's values in an array of its own."""
    return None if x is None else x.detach().double().numpy().astype(NUMPY[x.dtype])


def normals(shape, dtype=torch.float32, seed=0):
    """Normal deviates around 1."""
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (made + 1).to(dtype)


# --- memory: functions that keep the values and change how they are stored -----------------------


def _last(x):
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def _outward(x):
    axes = range(x.dim())[::-1]
    return x.permute(*axes).contiguous().permute(*axes)


def _sliced(x):
    wide = x.new_full((*x.shape[:-1], 2 * x.shape[-1] + 1), 7.0)
    wide[..., 1::2] = x
    return wide[..., 1::2]


def _cropped_last(x):
    wide = torch.nn.functional.pad(x, (1, 2))
    return _last(wide)[..., 1:-2]


def _negated(x):
    return torch._neg_view(-x)


def _shifted(x):
    memory = x.new_full((x.numel() + 3,), 7.0)
    memory[3:] = x.reshape(-1)
    return memory[3:].view(x.shape)


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": _last,
    "transposed": lambda x: x.transpose(1, -1).contiguous().transpose(1, -1),
    "outward": _outward,
    "sliced": _sliced,
    "cropped_last": _cropped_last,
    "negated": _negated,
    "shifted": _shifted,
}


# --- agreement ------------------------------------------------------------------------------------


def assert_near(mine, truth, like, units=64):
    """As PyTorch's in float64: within so many units, and a rounding to the dtype `like`."""
    if truth is None:
        assert mine is None
        return
    assert mine.dtype == like, (mine.dtype, like)
    name = NUMPY[like].name
    unit = units * torch.finfo(torch.float32 if name in HALVES else like).eps
    rounding = 2 * HALVES.get(name, 0.0)
    mine, truth = mine.detach().double(), truth.detach()
    size = float(truth.abs().max()) if truth.numel() else 0.0
    torch.testing.assert_close(mine, truth, rtol=unit + rounding, atol=unit * (1 + size))


def outcome(function, *args, **kwargs):
    """What a call returns, or the type and the words of its error."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return type(error), str(error)


class Looks(TorchDispatchMode):
    """Sees each operation: the adapter then takes its operators, not its direct path."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))
