"""JAX's calls, as flax makes them. See libraries.py for what the functions return.

The arrays of JAX have no strides: channels-last ones have the channels on their last axis. JAX
computes on all the threads that it finds when it is first used.
"""

from contextlib import suppress
from functools import partial

import numpy as np

from .libraries import EPS, MOMENTUM

with suppress(ImportError):  # asv imports every file here
    import jax
    import jax.numpy as jnp


def forward(d):
    """Statistics of the batch as flax computes them: the mean of squares less a square."""
    return _jitted(d, _forward, d.x, d.weight, d.bias)


def backward(d):
    """The reverse of `forward`; what it needs is kept from the forward pass, as in training."""

    def differentiated(*arguments, axis):
        return jax.vjp(partial(_forward, axis=axis), *arguments)[1]

    pull = _jitted(d, differentiated, d.x, d.weight, d.bias)()
    return _jitted(d, lambda pull, dy, axis: pull((dy,)), pull, d.dy)


def evaluation(d):
    """With running statistics."""
    return _jitted(d, _evaluation, d.x, d.running_mean, d.running_var, d.weight, d.bias)


def training(d):
    """`forward`, and new running statistics: JAX changes no array."""
    call = _jitted(d, _training, d.x, d.running_mean, d.running_var, d.weight, d.bias)
    return lambda: call()[:2]


def step(d, relu=False, residual=False, weighted=False):
    """The value and its reverse, compiled as one function."""
    mask = np.expand_dims(d.mask, 1) if weighted else None

    def both(dy, mask, *inputs, axis):
        y, pull = jax.vjp(partial(_output, mask, relu, axis), *inputs)
        return y, *pull(dy)

    more = [d.residual] if residual else []
    return _jitted(d, both, d.dy, mask, d.x, d.weight, d.bias, *more)


def statistics(d):
    """The statistics of `forward`."""
    return _jitted(d, _statistics, d.x)


def _statistics(x, axis, mask=None):
    axes = [a for a in range(x.ndim) if a != axis]
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean, squares = (jnp.mean(values, axes, where=mask) for values in (x, jnp.square(x)))
    return mean, jnp.maximum(squares - jnp.square(mean), 0)


def _evaluation(x, mean, var, weight, bias, axis):
    wide = [-1 if a == axis else 1 for a in range(x.ndim)]
    scale = jax.lax.rsqrt(var + EPS) * weight
    y = (x - mean.reshape(wide)) * scale.reshape(wide) + bias.reshape(wide)
    return (y.astype(x.dtype),)


def _forward(x, weight, bias, axis):
    return _evaluation(x, *_statistics(x, axis), weight, bias, axis)


def _output(mask, relu, axis, x, weight, bias, residual=None):
    (y,) = _evaluation(x, *_statistics(x, axis, mask), weight, bias, axis)
    y = y if residual is None else y + residual
    return jax.nn.relu(y) if relu else y


def _training(x, running_mean, running_var, weight, bias, axis):
    mean, var = _statistics(x, axis)
    running = (running_mean, mean), (running_var, var)
    moved = (old + MOMENTUM * (new - old) for old, new in running)
    return *_evaluation(x, mean, var, weight, bias, axis), *moved


def _jitted(d, function, *arguments):
    """A call of the function that waits for its result; compiled when it is first called."""
    jax.config.update("jax_enable_x64", True)  # float64 where it is given, and only there
    last = d.layout == "channels_last"

    def held(value):
        if not isinstance(value, np.ndarray):
            return value  # what `backward` keeps
        return jnp.asarray(np.moveaxis(value, 1, -1) if last and value.ndim > 1 else value)

    arguments = [held(value) for value in arguments]
    jitted = jax.jit(partial(function, axis=d.x.ndim - 1 if last else 1))
    return lambda: jax.block_until_ready(jitted(*arguments))
