"""The plain NumPy batch norm of the examples, for arrays of any rank with channels on axis 1."""

import importlib.util
from pathlib import Path

import numpy as np

# by path: asv imports the benchmarks alone, without the folder around them
_path = Path(__file__).parents[1] / "examples" / "numpy_batchnorm.py"
_spec = importlib.util.spec_from_file_location("numpy_batchnorm", _path)
_numpy_batchnorm = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_numpy_batchnorm)


def forward(x, gamma, beta, bn_param):
    """`batchnorm_forward` of rows, every position of every sample being a row."""
    out, cache = _numpy_batchnorm.batchnorm_forward(_rows(x), gamma, beta, bn_param)
    return _shaped(out, x.shape), cache


def backward(dout, cache):
    """`batchnorm_backward` of the same rows."""
    dx, dgamma, dbeta = _numpy_batchnorm.batchnorm_backward(_rows(dout), cache)
    return _shaped(dx, dout.shape), dgamma, dbeta


def _rows(x):
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def _shaped(rows, shape):
    n, c, *rest = shape
    return np.moveaxis(rows.reshape(n, *rest, c), -1, 1)
