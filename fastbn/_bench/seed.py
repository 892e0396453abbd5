"""The plain NumPy batch norm, for arrays of any rank with channels on axis 1."""

import numpy as np

from . import numpy_batchnorm


def forward(x, gamma, beta, bn_param):
    """`batchnorm_forward` of rows, every position of every sample being a row."""
    out, cache = numpy_batchnorm.batchnorm_forward(_rows(x), gamma, beta, bn_param)
    return _shaped(out, x.shape), cache


def backward(dout, cache):
    """`batchnorm_backward` of rows, every position of every sample being a row."""
    dx, dgamma, dbeta = numpy_batchnorm.batchnorm_backward(_rows(dout), cache)
    return _shaped(dx, dout.shape), dgamma, dbeta


def _rows(x):
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def _shaped(rows, shape):
    n, c, *rest = shape
    return np.moveaxis(rows.reshape(n, *rest, c), -1, 1)
