"""The options of a forward pass: weights, residual and activation, by name and drawn together."""

import numpy as np
import pytest
from data import normals

WEIGHTS = {  # functions of the shape without the channel axis
    "mask": lambda shape: np.random.default_rng(5).random(shape) < 0.7,
    "integers": lambda shape: np.random.default_rng(6).integers(0, 4, shape),
    "real": lambda shape: np.random.default_rng(7).random(shape) * 0.3,
}
ACTIVATIONS = {
    "none": {},
    "relu": {"activation": "relu"},
    "leaky": {"activation": "leaky_relu", "negative_slope": 0.2},
}


def settings(shape, weights, activation, residual, *, axis=1, dtype=np.float64):
    """Arguments of `forward`: the channel axis, and options by name; None is none."""
    return {
        "channel_axis": axis,
        "weights": WEIGHTS[weights](np.delete(shape, axis)) if weights else None,
        "residual": normals(shape, dtype, seed=11) if residual else None,
        **ACTIVATIONS[activation],
    }


def over_options(test):
    """A decorator: the test runs once for each combination of the options."""
    for name, values in {
        "weights": [None, *WEIGHTS],
        "activation": ACTIVATIONS,
        "residual": [False, True],
    }.items():
        test = pytest.mark.parametrize(name, values)(test)
    return test
