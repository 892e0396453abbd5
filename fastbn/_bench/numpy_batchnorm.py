"""Batch normalization as a textbook writes it: plain NumPy, one array expression per formula.

This is what fastbn is compared with, in timings and in examples. It follows Ioffe & Szegedy (2015),
section 3.1, equation by equation; `x` has shape (N, D), one row per sample, and every column is
normalised on its own.
"""

import numpy as np


def batchnorm_forward(x, gamma, beta, bn_param):
    """Normalise the columns of x, and keep what the backward pass needs.

    `bn_param` holds "mode" ("train" or "test") and may hold "eps", "momentum" (the weight of the
    old running value), "running_mean" and "running_var", which a train call updates.
    """
    eps = bn_param.get("eps", 1e-5)
    running_mean = bn_param.get("running_mean", np.zeros(x.shape[1], x.dtype))
    running_var = bn_param.get("running_var", np.zeros(x.shape[1], x.dtype))

    if bn_param["mode"] == "test":
        xhat = (x - running_mean) / np.sqrt(running_var + eps)
        return gamma * xhat + beta, None

    mean = x.mean(axis=0)
    var = x.var(axis=0)
    centred = x - mean
    invstd = 1 / np.sqrt(var + eps)
    xhat = centred * invstd
    out = gamma * xhat + beta

    momentum = bn_param.get("momentum", 0.9)
    bn_param["running_mean"] = momentum * running_mean + (1 - momentum) * mean
    bn_param["running_var"] = momentum * running_var + (1 - momentum) * var
    return out, (xhat, centred, invstd, gamma)


def batchnorm_backward(dout, cache):
    """Gradients of the loss with respect to x, gamma and beta, by the chain rule."""
    xhat, centred, invstd, gamma = cache
    n = len(dout)

    dgamma = np.sum(dout * xhat, axis=0)
    dbeta = np.sum(dout, axis=0)

    dxhat = dout * gamma
    dvar = np.sum(dxhat * centred, axis=0) * -0.5 * invstd**3
    dmean = -np.sum(dxhat * invstd, axis=0) - 2 * dvar * np.mean(centred, axis=0)
    dx = dxhat * invstd + dvar * 2 * centred / n + dmean / n
    return dx, dgamma, dbeta
