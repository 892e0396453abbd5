"""The seed interface: batch normalization as the CS231n exercises define it.

Momentum here is the weight of the **old** value, the running variance takes the population
variance, and the backward pass uses the same eps as the forward pass.
"""

from typing import Any

import numpy as np

from ._arrays import validate
from ._runtime import errors
from .functional import RUNNING, Saved, backward, evaluate_any, fixed_pair, forward_any
from .stats import move_running_stats

_PARAMETERS = "gamma", "beta"


def batchnorm_forward(x, gamma, beta, bn_param: dict) -> tuple[np.ndarray, Saved | None]:
    """Batch normalization of rows of features.

    Parameters
    ----------
    x : array_like, shape (N, D)
        float32 and float64 are computed as they are, integers as float64. N may be 1.
    gamma, beta : array_like, shape (D,)
        Scale and shift of each feature.
    bn_param : dict
        ``mode`` : "train" or "test", required.
        ``eps`` : added to the variance, 1e-5 unless given.
        ``momentum`` : weight of the **old** value in the running averages, 0.9 unless given.
        ``running_mean``, ``running_var`` : shape (D,), zeros of x's dtype unless given. A train
        call puts new arrays under these keys: ``momentum * running + (1 - momentum) * sample``,
        with the population variance.

    Returns
    -------
    out : ndarray, shape (N, D)
    cache : Saved or None
        For `batchnorm_backward`; None in test mode.

    Raises
    ------
    TypeError, ValueError
        If `mode` is missing or unknown, or an argument is of the wrong kind, shape or range;
        `bn_param` is left as it was.

    Notes
    -----
    Ioffe & Szegedy (2015), algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> bn_param = {"mode": "train"}
    >>> out, cache = fastbn.batchnorm_forward(x, np.ones(2), np.zeros(2), bn_param)
    >>> out.round(3)
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> bn_param["running_mean"]
    array([0.2, 2. ])
    """
    return _forward(x, gamma, beta, bn_param, 2)


def spatial_batchnorm_forward(x, gamma, beta, bn_param: dict) -> tuple[np.ndarray, Saved | None]:
    """Batch normalization of the channels of images.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W)
    gamma, beta : array_like, shape (C,)
    bn_param : dict
        As in `batchnorm_forward`, with arrays of shape (C,).

    Returns
    -------
    out : ndarray, shape (N, C, H, W)
    cache : Saved or None

    Raises
    ------
    TypeError, ValueError
        As `batchnorm_forward` does.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.random.default_rng(0).normal(5.0, 2.0, size=(8, 3, 4, 4))
    >>> out, cache = fastbn.spatial_batchnorm_forward(
    ...     x, np.ones(3), np.zeros(3), {"mode": "train"})
    >>> bool(abs(out.mean(axis=(0, 2, 3))).max() < 1e-12)
    True
    """
    return _forward(x, gamma, beta, bn_param, 4)


def _forward(x, gamma, beta, bn_param: dict, rank: int) -> tuple[np.ndarray, Saved | None]:
    if not isinstance(bn_param, dict):
        raise TypeError(f"bn_param should be a dict, got {type(bn_param).__name__}")
    mode = bn_param.get("mode")
    if not isinstance(mode, str) or mode not in ("train", "test"):
        raise ValueError(f'Invalid forward batchnorm mode "{mode}"')
    x = validate.array("x", x)
    if x.ndim != rank:
        wanted = "(N, D)" if rank == 2 else "(N, C, H, W)"
        raise ValueError(f"x should have shape {wanted}, got {x.shape}")
    if gamma is None or beta is None:  # which the functional calls take for 1 and 0
        for name, value in zip(_PARAMETERS, (gamma, beta), strict=True):
            validate.vector(name, value, x.shape[1])
    eps = bn_param.get("eps", 1e-5)
    momentum = errors.number("momentum", bn_param.get("momentum", 0.9))
    mean: Any = bn_param.get("running_mean")
    var: Any = bn_param.get("running_var")
    ordinary = validate.ordinary_pair(mean, var, x.shape[1])
    if not ordinary:
        mean, var = (_running(name, bn_param.get(name), x) for name in RUNNING)
        ordinary = validate.ordinary_pair(mean, var, x.shape[1])
    if mode == "test":
        if not ordinary:
            mean, var = fixed_pair(RUNNING, mean, var, x.shape[1])
        return evaluate_any(x, mean, var, gamma, beta, eps, _PARAMETERS), None
    out, cache = forward_any(x, gamma, beta, eps, 1, None, None, None, 1, _PARAMETERS)
    mean, var = mean.copy(), var.copy()
    move_running_stats(mean, var, ordinary, cache.buffer, cache.count, 1.0 - momentum, 0.0)
    bn_param["running_mean"], bn_param["running_var"] = mean, var
    return out, cache


def _running(name: str, value, x: np.ndarray) -> np.ndarray:
    """A running average as it is kept: of zeros at first, floating point, in native order."""
    channels = x.shape[1]
    if value is None:
        return np.zeros(channels, validate.dtypes("x", x.dtype)[1])
    value = validate.vector(name, value, channels)
    kept = np.dtype(np.float64) if value.dtype.kind in "iub" else value.dtype
    return np.array(value, kept.newbyteorder("="), order="C")


def batchnorm_backward(dout, cache: Saved) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of `batchnorm_forward` in train mode.

    Parameters
    ----------
    dout : array_like, shape (N, D)
        Gradient with respect to `out`.
    cache : Saved
        From `batchnorm_forward`.

    Returns
    -------
    dx : ndarray, shape (N, D)
    dgamma, dbeta : ndarray, shape (D,)

    Raises
    ------
    TypeError, ValueError
        If `cache` is not from a train pass, or `dout` does not fit it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.array([[1.0], [3.0], [5.0]])
    >>> out, cache = fastbn.batchnorm_forward(x, np.ones(1), np.zeros(1), {"mode": "train"})
    >>> dx, dgamma, dbeta = fastbn.batchnorm_backward(np.ones((3, 1)), cache)
    >>> dbeta
    array([3.])
    """
    if not isinstance(cache, Saved):
        raise TypeError(
            f"cache should come from a forward pass in train mode, got {type(cache).__name__}"
        )
    dout = validate.array("dout", dout)
    validate.gradient("dout", dout, cache.x.shape)
    return backward(dout, cache)[:3]


def batchnorm_backward_alt(dout, cache: Saved) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of `batchnorm_forward`: `batchnorm_backward` already is the simplified form.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.array([[1.0], [3.0], [5.0]])
    >>> out, cache = fastbn.batchnorm_forward(x, np.ones(1), np.zeros(1), {"mode": "train"})
    >>> fastbn.batchnorm_backward_alt(np.ones((3, 1)), cache)[2]
    array([3.])
    """
    return batchnorm_backward(dout, cache)


def spatial_batchnorm_backward(dout, cache: Saved) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of `spatial_batchnorm_forward`; `dout` and dx of shape (N, C, H, W).

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.random.default_rng(0).normal(size=(2, 3, 4, 4))
    >>> out, cache = fastbn.spatial_batchnorm_forward(
    ...     x, np.ones(3), np.zeros(3), {"mode": "train"})
    >>> fastbn.spatial_batchnorm_backward(np.ones_like(x), cache)[2]
    array([32., 32., 32.])
    """
    return batchnorm_backward(dout, cache)
