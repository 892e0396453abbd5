"""Bad values by what they stand for, each with the error and the words that refuse it.

`refusals` gives them to the calls of `calls`.
"""

import re

import numpy as np
from data import readonly

import fastbn

AXIS = np.exceptions.AxisError


class Changes(dict):
    """Several arguments, of which only together one is wrong."""


def always(value):
    """A bad value that depends on nothing."""
    return lambda a, w: value


def masked(shape):
    return np.ma.masked_array(np.ones(shape), mask=False)


def sliding(w):
    return np.lib.stride_tricks.as_strided(np.zeros(90), w.x.shape, (80, 32, 8))


def broadcast(w):
    return np.lib.stride_tricks.as_strided(np.zeros(1), w.x.shape, (0, 0, 0))


class Stubborn:
    """Offers itself as an array, and is none."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("not today")


# --- tables: label -> (function of the right value and the world, kind, words of the message), in
# which {0} is the argument -----------------------------------------------------------------------

ARRAY = {
    "complex": (lambda a, w: a.astype(complex), TypeError, "{0}.*complex128"),
    "object": (lambda a, w: a.astype(object), TypeError, "{0}.*object"),
    "text": (lambda a, w: a.astype("U"), TypeError, "{0}.*<U"),
    "bytes": (lambda a, w: a.astype("S"), TypeError, r"{0}.*\|S"),
    "datetime": (lambda a, w: a.astype("M8[s]"), TypeError, "{0}.*datetime64"),
    "timedelta": (lambda a, w: a.astype("m8[s]"), TypeError, "{0}.*timedelta64"),
    "structured": (lambda a, w: a.astype([("f", "f8")]), TypeError, "{0}.*f8"),
    "masked": (lambda a, w: masked(a.shape), TypeError, "{0}.*masked"),
    "ragged": (always([[1.0], [1.0, 2.0]]), ValueError, "{0} should be an array, got list"),
    "stubborn": (always(Stubborn()), TypeError, "{0} should be an array, got Stubborn: not today"),
}
FEW_AXES = r"\bx should have at least 2 dimensions, got {} \(shape \({}\)\)"
X = ARRAY | {
    "None": (always(None), ValueError, FEW_AXES.format(0, "")),
    "scalar": (always(3.0), ValueError, FEW_AXES.format(0, "")),
    "1-D": (lambda a, w: a[0, 0], ValueError, FEW_AXES.format(1, "5,")),
}
if np.dtype(np.longdouble).itemsize > 8:
    X["long double"] = (lambda a, w: a.astype(np.longdouble), TypeError, "{0}.*float128")
Y = ARRAY | {
    label: (bad, kind, message.replace("x should", "y should"))
    for label, (bad, kind, message) in X.items()
    if label not in ARRAY
}
ZERO = {"0": (lambda a, w: a * [1, 0, 1], ValueError, r"weight should not be 0.*\[1\]")}
AXES = {
    "none": (always(()), ValueError, "channel_axis should name at least one axis, got none"),
    "the same": (
        always((1, 1)),
        ValueError,
        r"channel_axis should name different axes, got \(1, 1\)",
    ),
    "twice": (
        always((1, -2)),
        ValueError,
        r"channel_axis should name different axes, got \(1, -2\)",
    ),
    "beyond": (always((0, 3)), AXIS, "channel_axis should be from -3 to 2 .*got 3"),
    "fraction": (always((0, 1.0)), TypeError, "channel_axis should be an integer, got float"),
}
CHANNELS = {
    "2 channels": (
        lambda a, w: a[:, :2],
        ValueError,
        "running_mean should contain 2 elements not 3",
    ),
    "4 channels": (
        lambda a, w: a[:, [0, 1, 2, 0]],
        ValueError,
        "running_mean should contain 4 elements not 3",
    ),
}
TOO_FEW = r"Expected more than 1 value per channel when training, got input size \({}\)"
ONE_VALUE = {"n == 1": (lambda a, w: a[:1, :, :1], ValueError, TOO_FEW.format("1, 3, 1"))}
PYTORCHS = {
    "PyTorch's n == 1": (
        always(np.zeros((1, 512, 1, 1), np.float32)),
        ValueError,
        TOO_FEW.format("1, 512, 1, 1"),
    )
}
ONE_ROW = {
    "n == 1, last": (
        always(Changes(x=np.zeros((1, 7)), channel_axis=-1)),
        ValueError,
        TOO_FEW.format("1, 7"),
    )
}
NO_FEATURES = {"no channels": (always(np.zeros((4, 0))), ValueError, "num_features .*1, got 0")}
NO_AXIS = {
    str(axis): (always(axis), AXIS, rf"channel_axis.*-3 to 2 .*got {axis}\b")
    for axis in (3, -4, 5, 10, 10**30)
}
NO_INTEGER = {
    repr(value): (always(value), TypeError, f"{{0}}.*integer.*{kind}")
    for value, kind in [
        (1.0, "float"),
        (1.5, "float"),
        ("1", "str"),
        ("two", "str"),
        (True, "bool"),
        (np.True_, "bool"),
        ([1], "list"),
        (np.array([1, 2]), "ndarray"),
        (1j, "complex"),
    ]
}
NONE = {"None": (always(None), TypeError, "{0}.*NoneType")}
VECTOR = ARRAY | {
    "4": (always(np.ones(4)), ValueError, "{0} should contain 3 elements not 4"),
    "2": (always(np.ones(2)), ValueError, "{0} should contain 3 elements not 2"),
    "none": (always([]), ValueError, "{0} should contain 3 elements not 0"),
    "2-D": (always(np.ones((3, 1))), ValueError, r"{0} should be 1-D.*\(3, 1\)"),
    "scalar": (always(1.0), ValueError, r"{0} should be 1-D.*\(\)"),
    "text alone": (always("one"), ValueError, r"{0} should be 1-D.*\(\)"),
}
WEIGHTS = ARRAY | {
    "negative": (lambda a, w: a - 1, ValueError, "{0}.*-1"),
    "minus infinity": (lambda a, w: np.where(a > 1, -np.inf, a), ValueError, "{0}.*-inf"),
    "infinity": (lambda a, w: np.where(a > 1, np.inf, a), ValueError, "{0}.*inf"),
    "NaN": (lambda a, w: np.where(a > 1, np.nan, a), ValueError, "{0}.*nan"),
    "one NaN among zeros": (always(np.array([[0.0] * 4 + [np.nan]] * 4)), ValueError, "{0}.*nan"),
    "negative integers": (always(np.full((4, 5), -1)), ValueError, "{0}.*-1"),
    **{
        str(shape): (always(np.ones(shape)), ValueError, "{0}.*" + re.escape(str(shape)))
        for shape in [(), (5,), (4, 3), (5, 4), (4, 6), (0, 5), (4, 3, 5), (4, 1, 3), (1, 4, 1, 5)]
    },
}
RESIDUAL = ARRAY | {
    **{
        str(shape): (always(np.ones(shape)), ValueError, "{0}.*" + re.escape(str(shape)))
        for shape in [(), (5,), (4, 5), (4, 3), (1, 3, 5), (4, 1, 5), (4, 3, 1), (3, 4, 5)]
    },
}
IN_PLACE = {
    "list": (always([0.0, 0.0, 0.0]), TypeError, "{0} should be a NumPy array, got list"),
    "integers": (always(np.ones(3, int)), TypeError, "{0}.*floating.*int64"),
    "booleans": (always(np.ones(3, bool)), TypeError, "{0}.*floating.*bool"),
    "complex": (always(np.ones(3, complex)), TypeError, "{0}.*floating.*complex128"),
    "4": VECTOR["4"],
    "2-D": VECTOR["2-D"],
    "masked": VECTOR["masked"],
    "None": (always(None), TypeError, "{0} should be a NumPy array, got NoneType"),
    "read-only": (always(readonly(3)), ValueError, "{0}.*writable.*read-only"),
}
IN_PLACE_IF_GIVEN = {name: entry for name, entry in IN_PLACE.items() if name != "None"}
OVERLAPPING = {
    "overlapping": (
        lambda a, w: Changes(running_mean=w.both[:3], running_var=w.both[1:]),
        ValueError,
        "running_var should not overlap running_mean",
    )
}
NOT_READ = {"None": (always(None), ValueError, "{0} must be defined in evaluation mode")}
NO_NUMBER = {
    "text": (always("1e-5"), TypeError, "{0} should be a real number, got str"),
    "bytes": (always(b"1"), TypeError, "{0} should be a real number, got bytes"),
    "complex": (always(1j), TypeError, "{0} should be a real number, got complex"),
    "list": (always([1.0]), TypeError, "{0} should be a real number, got list"),
    "array": (always(np.ones(1)), TypeError, "{0} should be a real number, got ndarray"),
    "beyond": (always(10**400), ValueError, "{0} should fit a float64"),
    "NaN": (always(np.nan), ValueError, "{0} should .*got nan"),
}
NEGATIVE = {
    "negative": (always(-1e-5), ValueError, "{0} should be at least 0, got -1e-05"),
    "negative integer": (always(-1), ValueError, "{0} should be at least 0, got -1"),
    "minus infinity": (always(-np.inf), ValueError, "{0} should be at least 0, got -inf"),
}
OUT = {
    "list": (always([1.0]), TypeError, "out should be a plain NumPy array, got list"),
    "masked": (lambda a, w: masked(w.x.shape), TypeError, "out.*plain.*MaskedArray"),
    "shape": (always(np.zeros((4, 3))), ValueError, r"out.*\(4, 3, 5\), got \(4, 3\)"),
    "axes": (always(np.zeros((3, 4, 5))), ValueError, r"out.*\(4, 3, 5\), got \(3, 4, 5\)"),
    "float32": (lambda a, w: w.out.astype("f4"), TypeError, "out.*float64, got float32"),
    "byte order": (
        lambda a, w: w.out.astype(w.out.dtype.newbyteorder()),
        TypeError,
        "out should have dtype float64",
    ),
    "read-only": (lambda a, w: readonly(w.x.shape), ValueError, "out.*read-only"),
    "sliding": (lambda a, w: sliding(w), ValueError, "out.*sliding view"),
    "broadcast": (lambda a, w: broadcast(w), ValueError, "out.*broadcast"),
}
OUT_FLOAT64 = "out should have dtype float32, got float64"
NARROW_X = {"float32": (lambda a, w: a.astype("f4"), TypeError, OUT_FLOAT64)}
NARROW_SAVED = {
    "of float32": (lambda a, w: fastbn.forward(w.x.astype("f4"))[1], TypeError, OUT_FLOAT64)
}
OVERLAP = "out should not (partially )?overlap "
ONTO_X = {
    "reversed x": (lambda a, w: w.x[::-1], ValueError, OVERLAP + "x"),
    "x's channels reversed": (lambda a, w: w.x[:, ::-1], ValueError, OVERLAP + "x"),
    "x turned": (
        lambda a, w: w.x.reshape(5, 3, 4).transpose(2, 1, 0),
        ValueError,
        OVERLAP + "x",
    ),
    "behind x": (lambda a, w: w.memory[1:61].reshape(w.x.shape), ValueError, OVERLAP + "x"),
}
ONTO_DY = {
    "reversed dy": (lambda a, w: w.dy[::-1], ValueError, OVERLAP + "dy"),
    "behind dy": (lambda a, w: w.dy_memory[5:65].reshape(w.x.shape), ValueError, OVERLAP + "dy"),
}
ONTO_RESIDUAL = {
    "the residual": (lambda a, w: w.residual, ValueError, "out should not overlap residual"),
    "reversed residual": (lambda a, w: w.residual[::-1], ValueError, OVERLAP + "residual"),
    "behind the residual": (
        lambda a, w: w.residual_memory[1:61].reshape(w.x.shape),
        ValueError,
        OVERLAP + "residual",
    ),
}
IN_WEIGHTS = {"in out": (lambda a, w: w.out[:, 0], ValueError, "out should not overlap weights")}
EXACTLY_X = {"x": (lambda a, w: w.x, ValueError, "out should not overlap x")}
IN_OUT = {"in out": (lambda a, w: w.out[0, :, 0], ValueError, "out should not overlap {0}")}
STATS = {
    "number": (always(3.0), TypeError, "stats should be a Stats or .*float"),
    "list": (lambda a, w: [w.mean, w.var], TypeError, "stats should be a Stats or .*list"),
    "triple": (lambda a, w: (w.mean,) * 3, TypeError, "stats should be a Stats or .*tuple"),
    "4 channels": (always(fastbn.Stats.empty(4)), ValueError, "stats.*3 channels, got 4"),
    "mean": (lambda a, w: (np.zeros(4), w.var), ValueError, "stats mean .*3 elements not 4"),
    "var": (lambda a, w: (w.mean, np.ones(2)), ValueError, "stats var .*3 elements not 2"),
    "no var": (lambda a, w: (w.mean, None), ValueError, "stats var should be 1-D"),
    "complex": (lambda a, w: (w.mean + 0j, w.var), TypeError, "stats mean.*complex128"),
    "masked": (lambda a, w: (w.mean, masked(3)), TypeError, "stats var.*masked"),
}
NO_STATS = {
    "pair": (lambda a, w: (w.mean, w.var), TypeError, "stats should be a Stats, got tuple"),
    "4 channels": (
        always(fastbn.Stats.empty(4)),
        ValueError,
        "running_mean should contain 4 elements not 3",
    ),
}
GRADIENT = ARRAY | {
    "shape": (lambda a, w: a[:2], ValueError, r"{0} should have shape \(4, 3.*got \(2, 3"),
    "rows": (always(np.zeros((9, 3))), ValueError, r"{0} should have shape \(4, 3.*got \(9, 3\)"),
    "broadcast": (lambda a, w: a[:1], ValueError, r"{0} should have shape \(4, 3.*got \(1, 3"),
    "None": (always(None), ValueError, r"{0} should have shape .*got \(\)"),
    "integers": (lambda a, w: a.astype(int), TypeError, "{0}.*floating.*int64"),
    "booleans": (lambda a, w: a > 0, TypeError, "{0}.*floating.*bool"),
}
SAVED = {
    "None": (always(None), TypeError, "{0} should come from .*forward.*NoneType"),
    "Stats": (lambda a, w: w.stats, TypeError, "{0} should come from .*forward.*Stats"),
    "array": (lambda a, w: w.x, TypeError, "{0} should come from .*forward.*ndarray"),
}
NEEDS = {
    repr(value): (always(value), ValueError, "needs should be three bools")
    for value in (True, None, (True, True), "yes", np.ones(3, bool))
}
CHOICE = {
    repr(value): (
        always(value),
        ValueError,
        "nonfinite should be one of 'propagate', 'skip', 'raise', got " + re.escape(repr(value)),
    )
    for value in ("drop", "ignore", "", None, 1, ["skip"], np.array(["skip", "raise"]))
}
ACTIVATION = {
    repr(value): (always(value), ValueError, r"\bactivation should be .*" + re.escape(repr(value)))
    for value in ("gelu", "ReLU", "relu ", "", "none", 1, False, ["relu"], np.array(["relu", "x"]))
}
FEATURES = {
    "0": (always(0), ValueError, "num_features should be at least 1, got 0"),
    "-1": (always(-1), ValueError, "num_features should be at least 1, got -1"),
}
PARAMETER_DTYPE = {
    str(value): (always(value), TypeError, f"dtype should be float32 or float64, got .*{shown}")
    for value, shown in [
        (int, "int64"),
        ("float16", "float16"),
        (complex, "complex128"),
        ("nonsense", "nonsense"),
        (">f4" if np.little_endian else "<f4", "f4"),
    ]
}
STATE = {
    "None": (always(None), TypeError, "state should be a mapping, got NoneType"),
    "list": (always([1]), TypeError, "state should be a mapping, got list"),
    "nothing": (always({}), KeyError, "missing bias, running_mean, running_var, weight"),
    "unknown": (
        lambda a, w: w.layer.state_dict() | {"gamma": 1, 7: 1},
        KeyError,
        "unknown keys 7, gamma",
    ),
}
COUNT = {
    "negative": (always(-1), ValueError, "num_batches_tracked should be at least 0"),
    "fraction": (always(1.5), TypeError, "num_batches_tracked should be an integer"),
    "beyond int64": (always(2**63), ValueError, "num_batches_tracked should be at most"),
    "two": (always([1, 2]), ValueError, r"num_batches_tracked should have shape .*got \(2,\)"),
}
PARAM = {
    "None": (always(None), TypeError, "bn_param.*NoneType"),
    "no mode": (always({}), ValueError, '^Invalid forward batchnorm mode "None"$'),
    "mode": (
        always({"mode": "training"}),
        ValueError,
        '^Invalid forward batchnorm mode "training"$',
    ),
    "mode an array": (
        lambda a, w: {"mode": w.x},
        ValueError,
        "^Invalid forward batchnorm mode",
    ),
}
PARTS = {
    "one": (lambda a, w: w.stats, TypeError, "stats should be an iterable of Stats"),
    "None": (always(None), TypeError, "stats should be an iterable of Stats, got None"),
    "nothing": (always([]), ValueError, "stats should contain at least one"),
    "no Stats": (lambda a, w: [w.stats, 1], TypeError, "stats should contain Stats, got int"),
    "channels": (
        lambda a, w: [w.stats, fastbn.Stats.empty(4)],
        ValueError,
        r"stats should all have the same number of channels, got \[3, 4\]",
    ),
}
PAIR = {
    "pair": (lambda a, w: (w.mean, w.var), TypeError, r"stats should be a Stats.*\(mean, var\)")
}
SUMS = {
    "None": (always(None), TypeError, "sums should be a GradSums, got NoneType"),
    "pair": (lambda a, w: (w.mean, w.var), TypeError, "sums should be a GradSums, got tuple"),
    "4 channels": (
        always(fastbn.GradSums(np.ones(4), np.ones(4))),
        ValueError,
        "sums should have 3 channels, got 4",
    ),
}
OTHER_SUMS = {
    "number": (always(1.0), TypeError, "unsupported operand"),
    "4 channels": (SUMS["4 channels"][0], ValueError, "same number of channels, got 3, 4"),
}
SAVED_WITH = {
    name: (
        lambda a, w, given=given: fastbn.forward(w.x, **given(w))[1],
        ValueError,
        "saved should come from forward without weights, residual or activation",
    )
    for name, given in {
        "weights": lambda w: {"weights": w.weights},
        "residual": lambda w: {"residual": w.residual},
        "activation": lambda w: {"activation": "relu"},
    }.items()
}
NO_STATS_OF_LAYER = {
    "pair": NO_STATS["pair"],
    "4 channels": (
        always(fastbn.Stats.empty(4)),
        ValueError,
        "stats should have 3 channels, got 4",
    ),
}
BATCHES_OF_LAYER = {
    "None": (always(None), TypeError, "batches should be an iterable.*NoneType"),
    "4 channels": (always([np.ones((2, 4))]), ValueError, "stats should have 3 channels, got 4"),
}
CONVENTION = {
    repr(value): (always(value), ValueError, "convention should be one of 'torch', 'keras'")
    for value in ("pytorch", "Torch", "", None, 1, ["torch"])
}
UNTRACKED = {"False": (always(False), ValueError, "track_running_stats should be True")}
GROUP = {
    "0": (always(0), ValueError, "virtual_batch_size should be at least 1, got 0"),
    "-4": (always(-4), ValueError, "virtual_batch_size should be at least 1, got -4"),
}
INFINITE = {"infinity": (always(np.inf), ValueError, "{0} should be finite, got inf")}
RMAX = {"0.5": (always(0.5), ValueError, "rmax should be at least 1, got 0.5")}
BATCHES = {
    "None": (always(None), TypeError, "batches should be an iterable of arrays, got NoneType"),
    "number": (always(3.0), TypeError, "batches should be an iterable of arrays, got float"),
    "nothing": (always([]), ValueError, "batches should contain at least one batch, got none"),
    "an array": (lambda a, w: w.x2, ValueError, "^batch 0: x should have at least 2 dim"),
    "text": (lambda a, w: [w.x, w.x2.astype(str)], TypeError, "^batch 1: x should be .*<U"),
    "weights": (
        lambda a, w: [w.x, w.x, (w.x, w.weight)],
        ValueError,
        r"^batch 2: weights should have shape \(4, 5\)",
    ),
    "triple": (
        lambda a, w: [(w.x, w.weights, w.y)],
        ValueError,
        r"^batch 0: should be an array or \(x, weights\), got a tuple of 3",
    ),
    "channels": (
        lambda a, w: [w.x, w.x, np.ones((2, 4))],
        ValueError,
        "batches .* same number of channels: batch 0 has 3, batch 2 has 4",
    ),
}
NO_STATS_AT_ALL = {
    "pair": (lambda a, w: (w.mean, w.var), TypeError, "{0} should be a Stats, got tuple"),
    "None": (always(None), TypeError, "{0} should be a Stats, got NoneType"),
}
REFERENCE = {
    "4 channels": (
        always(fastbn.Stats.empty(4)),
        ValueError,
        "reference should have 3 channels, as stats, got 4",
    ),
}
DIGITS = {
    "float32": (lambda a, w: a.astype(np.float32), TypeError, "a should .*float64, got .*float32"),
    "None": (always(None), TypeError, "a should .*float64, got dtype object"),
    "2-D": (lambda a, w: a[None], ValueError, r"a should have shape \(2 \+ 4.*got \(1, 14\)"),
    "short": (lambda a, w: a[:-1], ValueError, r"a should have shape \(2 \+ 4.*got \(13,\)"),
    "nothing": (lambda a, w: a[:0], ValueError, r"a should have shape \(2 \+ 4.*got \(0,\)"),
    "negative": (lambda a, w: -a, ValueError, "the count in a should be at least 0, got -20"),
    "NaN": (lambda a, w: np.nan * a, ValueError, "the count in a should be a number, got nan"),
}
NO_TEAM = {
    str(value): (always(value), ValueError, rf"k should be from 1 to 8 .*got {value}\b")
    for value in (0, -1, 9, 10**9)
}
LENGTH = {"negative": (always(-1), ValueError, "channels should be at least 0, got -1")}
M2 = {name: VECTOR[name] for name in ("complex", "masked", "4", "2-D", "scalar")}


def ranks(wanted, *wrong):
    """Arrays of other ranks than a layer takes, with PyTorch's words."""
    message = r"expected {} input \(got {}D input\)"
    return {
        f"{rank}-D": (always(np.zeros((3,) * rank)), ValueError, message.format(wanted, rank))
        for rank in wrong
    }


def shapes(wanted, *wrong):
    """Arrays of other ranks than the seed interface takes."""
    message = r"x should have shape \({}\), got {}"
    return {
        str(shape): (
            always(np.zeros(shape)),
            ValueError,
            message.format(wanted, re.escape(str(shape))),
        )
        for shape in wrong
    }
