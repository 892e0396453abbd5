"""Every error: its type, its words, and that nothing has changed."""

from functools import cache

import numpy as np
import pytest
from data import normals, readonly

import fastbn

X = normals((4, 3, 5), np.float32)
ONES, ZEROS = np.ones(3), np.zeros(3)


@cache
def kept():
    return fastbn.forward(X)[1]


def running():
    return np.zeros(3), np.ones(3)


def train(x=X, mean=ZEROS, var=ONES, **kw):
    return fastbn.batch_norm(x, mean.copy(), var.copy(), training=True, **kw)


def evaluate(x=X, mean=ZEROS, var=ONES, **kw):
    return fastbn.batch_norm(x, mean, var, **kw)


TOO_FEW = r"Expected more than 1 value per channel when training, got input size \(1, 512, 1, 1\)"
ONE = np.zeros((1, 512, 1, 1), np.float32)
AXIS = np.exceptions.AxisError
BOTH = (ValueError, TypeError)

ERRORS = {
    # PyTorch's words
    "forward, n == 1": (lambda: fastbn.forward(ONE), ValueError, TOO_FEW),
    "batch_norm, n == 1": (lambda: fastbn.batch_norm(ONE, training=True), ValueError, TOO_FEW),
    "layer, n == 1": (lambda: fastbn.BatchNorm(512)(ONE), ValueError, TOO_FEW),
    "channels last, n == 1": (
        lambda: fastbn.forward(np.zeros((1, 7)), channel_axis=-1),
        ValueError,
        r"got input size \(1, 7\)",
    ),
    "running_mean": (
        lambda: train(np.zeros((5, 9)), np.zeros(10), np.zeros(9)),
        ValueError,
        "running_mean should contain 9 elements not 10",
    ),
    "running_var": (
        lambda: train(var=np.ones(9)),
        ValueError,
        "running_var should contain 3 elements not 9",
    ),
    "running_var, evaluation": (
        lambda: evaluate(var=np.ones(9)),
        ValueError,
        "running_var should contain 3 elements not 9",
    ),
    "weight": (
        lambda: fastbn.forward(X, np.ones(4)),
        ValueError,
        "weight should contain 3 elements not 4",
    ),
    "bias": (
        lambda: fastbn.normalize(X, kept().stats, bias=np.ones(2)),
        ValueError,
        "bias should contain 3 elements not 2",
    ),
    "no running_mean": (
        lambda: fastbn.batch_norm(X, None, ONES),
        ValueError,
        "running_mean must be defined in evaluation mode",
    ),
    "no running_var": (
        lambda: fastbn.batch_norm(X, ZEROS, None),
        ValueError,
        "running_var must be defined in evaluation mode",
    ),
    "running_mean read-only": (
        lambda: fastbn.batch_norm(X, readonly(3), np.ones(3), training=True),
        ValueError,
        "running_mean.*read-only",
    ),
    "running_var of integers": (
        lambda: train(var=np.ones(3, int)),
        BOTH,
        "running_var.*int64",
    ),
    "running_mean a list": (
        lambda: fastbn.batch_norm(X, [0, 0, 0], np.ones(3), training=True),
        BOTH,
        "running_mean",
    ),
    # x
    "rank 1": (
        lambda: fastbn.forward(np.zeros(5)),
        ValueError,
        r"\bx\b.*2 dim.*1 \(shape \(5,\)\)",
    ),
    "rank 0": (lambda: fastbn.batch_stats(5.0), ValueError, r"\bx\b.*2 dim.*0 \(shape \(\)\)"),
    "complex": (lambda: fastbn.forward(X.astype(complex)), TypeError, r"\bx\b.*complex128"),
    "object": (lambda: fastbn.batch_stats(X.astype(object)), TypeError, r"\bx\b.*object"),
    "string": (lambda: train(X.astype("U")), TypeError, r"\bx\b.*(U|str)"),
    "datetime": (
        lambda: fastbn.normalize(X.astype("M8[s]"), kept().stats),
        TypeError,
        r"\bx\b.*datetime64",
    ),
    # parameters
    "weight 2-D": (lambda: fastbn.forward(X, np.ones((3, 1))), ValueError, r"weight.*1.*\(3, 1\)"),
    "bias 0-D": (lambda: fastbn.forward(X, None, 1.0), ValueError, r"bias.*1.*\(\)"),
    "weight complex": (
        lambda: fastbn.forward(X, np.ones(3, complex)),
        TypeError,
        "weight.*complex",
    ),
    "bias object": (
        lambda: fastbn.forward(X, None, np.array([None] * 3)),
        TypeError,
        "bias.*object",
    ),
    "eps negative": (lambda: fastbn.forward(X, eps=-1e-5), ValueError, "eps.*-1e-05"),
    "eps no number": (lambda: fastbn.forward(X, eps="small"), TypeError, "eps.*str"),
    "eps NaN": (lambda: fastbn.normalize(X, kept().stats, eps=np.nan), ValueError, "eps.*nan"),
    "layer's eps": (lambda: fastbn.BatchNorm(3, eps=-1), ValueError, "eps.*-1"),
    "batch_norm's eps": (lambda: evaluate(eps=np.nan), ValueError, "eps.*nan"),
    "layer's nonfinite": (
        lambda: fastbn.BatchNorm(3, nonfinite="ignore"),
        ValueError,
        "nonfinite.*ignore",
    ),
    "nonfinite": (
        lambda: fastbn.update_running_stats(*running(), kept().stats, nonfinite="drop"),
        ValueError,
        "nonfinite.*drop",
    ),
    # statistics
    "stats of other channels": (
        lambda: fastbn.normalize(X, fastbn.Stats.empty(4)),
        ValueError,
        "stats.*3.*4|mean should contain 3 elements not 4",
    ),
    "stats no pair": (lambda: fastbn.forward(X, stats=3.0), BOTH, "stats"),
    "stats a triple": (lambda: fastbn.forward(X, stats=(ZEROS, ONES, ONES)), BOTH, "stats"),
    "merge nothing": (lambda: fastbn.merge_stats([]), ValueError, "stats"),
    "merge other channels": (
        lambda: fastbn.merge_stats([kept().stats, fastbn.Stats.empty(4)]),
        ValueError,
        "3.*4",
    ),
    "update other channels": (
        lambda: fastbn.update_running_stats(np.zeros(4), np.ones(4), kept().stats),
        ValueError,
        "running_mean should contain 3 elements not 4",
    ),
    "count negative": (lambda: fastbn.Stats(-1, ZEROS, ONES), ValueError, "count.*-1"),
    "count NaN": (lambda: fastbn.Stats(np.nan, ZEROS, ONES), ValueError, "count.*nan"),
    "mean and m2 differ": (
        lambda: fastbn.Stats(2, ZEROS, np.ones(4)),
        ValueError,
        "m2 should contain 3 elements not 4",
    ),
    "update read-only": (
        lambda: fastbn.update_running_stats(np.zeros(3), readonly(3, float), kept().stats),
        ValueError,
        "running_var.*read-only",
    ),
    "update by no Stats": (
        lambda: fastbn.update_running_stats(*running(), (ZEROS, ONES)),
        TypeError,
        "stats.*tuple",
    ),
    # layers
    "no features": (lambda: fastbn.BatchNorm(0), ValueError, "num_features.*0"),
    "features no number": (lambda: fastbn.BatchNorm("3"), TypeError, "num_features.*str"),
    "layer of integers": (lambda: fastbn.BatchNorm(3, dtype=int), BOTH, "dtype.*int"),
    "layer of other channels": (
        lambda: fastbn.BatchNorm(4)(X),
        ValueError,
        "running_mean should contain 3 elements not 4",
    ),
    # dy
    "saved": (lambda: fastbn.backward(X, X), TypeError, "saved.*forward.*ndarray"),
    "needs": (lambda: fastbn.backward(X, kept(), needs=(True, True)), ValueError, "needs.*three"),
    "dy's shape": (
        lambda: fastbn.backward(X[:2], kept()),
        ValueError,
        r"dy.*\(2, 3, 5\).*\(4, 3, 5\)|dy.*\(4, 3, 5\).*\(2, 3, 5\)",
    ),
    "dy broadcastable": (lambda: fastbn.backward(X[:1], kept()), ValueError, r"dy.*\(1, 3, 5\)"),
    "dy complex": (lambda: fastbn.backward(X.astype(complex), kept()), TypeError, "dy.*complex"),
    "dy of integers": (lambda: fastbn.backward(X.astype(int), kept()), TypeError, "dy.*int64"),
    "dy object": (lambda: fastbn.backward(X.astype(object), kept()), TypeError, "dy.*object"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error(name):
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=f"(?s){message}"):
        call()


@pytest.mark.parametrize("axis", [3, -4, 10])
@pytest.mark.parametrize(
    "call",
    [
        lambda axis: fastbn.forward(X, channel_axis=axis),
        lambda axis: fastbn.batch_norm(X, training=True, channel_axis=axis),
        lambda axis: fastbn.normalize(X, kept().stats, channel_axis=axis),
        lambda axis: fastbn.batch_stats(X, channel_axis=axis),
        lambda axis: fastbn.BatchNorm(3, channel_axis=axis)(X),
    ],
)
def test_channel_axis_out_of_range(call, axis):
    with pytest.raises(AXIS, match=f"channel_axis.*{axis}"):
        call(axis)


@pytest.mark.parametrize(
    "bad",
    [
        {"bias": np.ones(4)},
        {"weight": np.ones((3, 1))},
        {"eps": -1.0},
        {"out": np.zeros((4, 3))},
        {"out": readonly(X.shape, np.float32)},
        {"channel_axis": 5},
        {"x": X.astype(complex)},
        {"x": X[:1, :, :1]},
    ],
    ids=str,
)
def test_a_failing_call_changes_nothing(bad):
    mean, var = running()
    out = bad.get("out", np.full(X.shape, 7.0, np.float32))
    before = out.copy()
    with pytest.raises(BOTH):
        fastbn.batch_norm(**({"x": X, "out": out, "training": True} | bad), running_mean=mean,
                          running_var=var)  # fmt: skip
    np.testing.assert_array_equal(mean, 0)
    np.testing.assert_array_equal(var, 1)
    np.testing.assert_array_equal(out, before)


def test_one_good_and_one_bad_running_array():
    mean = np.zeros(3)
    with pytest.raises(ValueError, match="running_var"):
        fastbn.batch_norm(X, mean, readonly(3, np.float64), training=True)
    with pytest.raises(ValueError, match="running_var"):
        fastbn.update_running_stats(mean, np.ones(4), kept().stats)
    np.testing.assert_array_equal(mean, 0)
