"""The plain NumPy batch norm of the examples, for arrays of any rank with channels on axis 1."""

from pathlib import Path
from runpy import run_path

import numpy as np

# by path: asv imports the benchmarks alone, without the folder around them
_seed = run_path(str(Path(__file__).parents[1] / "examples" / "numpy_batchnorm.py"))


def forward(x, gamma, beta, bn_param):
    """`batchnorm_forward` of rows, every position of every sample being a row."""
    out, cache = _seed["batchnorm_forward"](_rows(x), gamma, beta, bn_param)
    return _shaped(out, x.shape), cache


def backward(dout, cache):
    """`batchnorm_backward` of rows, every position of every sample being a row."""
    dx, dgamma, dbeta = _seed["batchnorm_backward"](_rows(dout), cache)
    return _shaped(dx, dout.shape), dgamma, dbeta


def _rows(x):
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def _shaped(rows, shape):
    n, c, *rest = shape
    return np.moveaxis(rows.reshape(n, *rest, c), -1, 1)
