"""The table of libraries, and how each does each operation.

A library is a file here, with a function for each operation that it can do. The function takes a
`cases.Data` and returns the call to be timed, whose result is a tuple of arrays or tensors, in the
same order in every library. Everything that is not the operation itself, such as the forward pass
before a backward one, is done before the call is returned. A function that also takes `out` can
make a call that writes into that array. A library is imported when one of its functions is used,
so any may be missing.

A step is a forward pass and the backward one: its result is y, then the gradients with respect to
x, weight, bias and, where there is one, the residual. The function `step` takes what the table
`STEPS` has for it: whether there is a ReLU, a residual before it, and a mask of the positions that
count. Of these, only fastbn has a call; elsewhere they are operations of their own.

Modules are PyTorch's batch norm and fastbn's in its place: a call in training, and that with what
autograd makes of it.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from inspect import signature

import numpy as np

import fastbn

EPS = 1e-5
MOMENTUM = 0.1

PASSES = ("forward", "backward", "evaluation", "training", "statistics")
STEPS = {
    "step": {},
    "step_relu": {"relu": True},
    "step_residual_relu": {"relu": True, "residual": True},
    "step_weighted": {"weighted": True},
}
OPERATIONS = (*PASSES, *STEPS)
MODULES = {"module": "training", "module_step": "step"}  # by what is expected of them

FILES = {  # by library: its file here, and the module that has to be installed
    "fastbn": ("in_fastbn", "fastbn"),
    "NumPy": ("in_numpy", "numpy"),
    "PyTorch": ("in_torch", "torch"),
    "torch.compile": ("in_compiled", "torch"),
    "JAX": ("in_jax", "jax"),
}


def installed():
    """The libraries of the table that can be imported here."""
    return [library for library, (_, module) in FILES.items() if find_spec(module)]


def set_threads(threads):
    """Give every library the same number of threads. JAX reads it when it is first used."""
    if threads is not None:
        fastbn.set_num_threads(threads)
    os.environ["NPROC"] = str(fastbn.get_num_threads())
    if "PyTorch" in installed():
        import torch

        torch.set_num_threads(fastbn.get_num_threads())


def prepared(library, operation, data, given=False):
    """The call to be timed; None if the library cannot do it. `given`: into a given array."""
    module = import_module(f".{FILES[library][0]}", __package__)
    if operation in MODULES and library == "NumPy":
        operation = MODULES[operation]
    if operation in MODULES and not hasattr(module, operation):
        return None
    if library == "NumPy" and data.dtype.itemsize == 2:
        return None  # it would round the statistics to 16 bits
    if operation in STEPS:
        return None if given else module.step(data, **STEPS[operation])
    function = getattr(module, operation)
    if not given:
        return function(data)
    can = "out" in signature(function).parameters
    return function(data, np.empty_like(data.x)) if can else None


def arrays(result, shape=None):
    """The arrays of a call's result, whatever the library.

    With the shape of x: an output of JAX that has its channels last gets them on axis 1.
    """
    parts = [np.asarray(part.float() if _is_bfloat16(part) else part) for part in result]
    turned = [shape and part.ndim == len(shape) and part.shape != shape for part in parts]
    return [np.moveaxis(a, -1, 1) if turn else a for a, turn in zip(parts, turned, strict=True)]


def _is_bfloat16(part):
    """Whether this is a tensor of PyTorch that NumPy has no dtype for."""
    return str(part.dtype) == "torch.bfloat16"
