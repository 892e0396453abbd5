"""Every argument of every public function, given wrong: refused by name, and nothing is changed.

A table of bad values per argument is applied to each call that takes it. `test_validate` has the
exact words of single messages, `test_odd_input` what looks odd and is right.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from data import normals, readonly, snapshot

import fastbn

AXIS = np.exceptions.AxisError
USUAL = object()
LAYER_ARRAYS = ("weight", "bias", "weight_grad", "bias_grad", "running_mean", "running_var")


def world():
    """Fresh arguments of every kind, among them layers that have been used."""
    x, running = normals((4, 3, 5), offset=1.0), {"mode": "train", "running_mean": np.zeros(3)}
    w = SimpleNamespace(x=x, dy=normals(x.shape, seed=1), out=np.full(x.shape, 7.0))
    w.weight, w.bias = normals(3, seed=2), normals(3, seed=3)
    w.mean, w.var = np.zeros(3), np.ones(3)
    w.y, w.saved = fastbn.forward(x, w.weight)
    w.stats = w.saved.stats
    w.x2, w.x4 = x[:, :, 0].copy(), x[:, :, :, None].copy()
    w.bn_param = running
    w.cache = fastbn.batchnorm_forward(w.x2, w.weight, w.bias, dict(running))[1]
    w.cache4 = fastbn.spatial_batchnorm_forward(w.x4, w.weight, w.bias, dict(running))[1]
    w.layer = fastbn.BatchNorm(3, dtype=np.float64)
    w.layer.backward(w.layer(x))
    return w


def picture(w):
    """A copy of everything that a call could have changed."""
    arrays = {name: value.copy() for name, value in vars(w).items() if type(value) is np.ndarray}
    arrays |= {f"layer.{name}": value for name, value in snapshot(w.layer).items()}
    arrays |= {f"layer.{name}": getattr(w.layer, name).copy() for name in LAYER_ARRAYS}
    arrays |= {f"bn_param.{name}": np.copy(value) for name, value in w.bn_param.items()}
    arrays |= {"stats.mean": w.stats.mean.copy(), "stats.m2": w.stats.m2.copy()}
    arrays |= {"threads": np.array(fastbn.get_num_threads()), "training": w.layer.training}
    return arrays


# --- calls: name -> (arguments that are right, function of the arguments) ------------------------


def eval_layer(w, x):
    w.layer.training = False
    try:
        return w.layer(x)
    finally:
        w.layer.training = True


def with_param(function, x_name):
    def call(w, x, gamma, beta, bn_param=USUAL, **settings):
        return function(x, gamma, beta, w.bn_param | settings if bn_param is USUAL else bn_param)

    return (lambda w: {"x": getattr(w, x_name), "gamma": w.weight, "beta": w.bias}), call


def replaced(w, **attributes):
    """Call a layer some of whose attributes were set by hand, and put them back."""
    kept = {name: getattr(w.layer, name) for name in attributes}
    vars(w.layer).update(attributes)
    try:
        w.layer(w.x)
    finally:
        vars(w.layer).update(kept)


def train(w, **arguments):
    return fastbn.batch_norm(training=True, **arguments)


def load(w, state=USUAL, **changes):
    w.layer.load_state_dict(w.layer.state_dict() | changes if state is USUAL else state)


def pick(*names, **fixed):
    return lambda w: {name: getattr(w, fixed.get(name, name)) for name in [*names, *fixed]}


def plain(function):
    return lambda w, **arguments: function(**arguments)


RUNNING = {"running_mean": "mean", "running_var": "var"}
CALLS = {
    "train": (pick("x", "weight", "bias", "out", **RUNNING), train),
    "evaluate": (pick("x", "weight", "bias", "out", **RUNNING), plain(fastbn.batch_norm)),
    "forward": (pick("x", "weight", "bias", "out"), plain(fastbn.forward)),
    "train, no out": (pick("x", **RUNNING), train),
    "forward, no out": (pick("x"), plain(fastbn.forward)),
    "fixed": (pick("x", "stats", "weight", "bias", "out"), plain(fastbn.forward)),
    "normalize": (pick("x", "stats", "weight", "bias", "out"), plain(fastbn.normalize)),
    "batch_stats": (pick("x"), plain(fastbn.batch_stats)),
    "backward": (pick("dy", "saved", "out"), plain(fastbn.backward)),
    "update": (pick("stats", **RUNNING), plain(fastbn.update_running_stats)),
    "merge": (lambda w: {"stats": [w.stats, w.stats]}, plain(fastbn.merge_stats)),
    "Stats": (lambda w: {"count": 2, "mean": w.mean, "m2": w.var}, plain(fastbn.Stats)),
    "var": (lambda w: {"ddof": 1}, lambda w, ddof: w.stats.var(ddof)),
    "std": (lambda w: {"ddof": 1}, lambda w, ddof: w.stats.std(ddof)),
    "empty": (lambda w: {"channels": 3}, plain(fastbn.Stats.empty)),
    "layer": (pick("x"), lambda w, x: w.layer(x)),
    "layer, evaluate": (pick("x"), eval_layer),
    "layer, replaced": (lambda w: {}, replaced),
    "layer, backward": (pick("dy"), lambda w, dy: w.layer.backward(dy)),
    "BatchNorm": (lambda w: {"num_features": 3}, plain(fastbn.BatchNorm)),
    "BatchNorm2d": (lambda w: {"num_features": 3}, plain(fastbn.BatchNorm2d)),
    "BatchNorm, call": (
        pick("x"),
        lambda w, x, channel_axis=1: fastbn.BatchNorm(3, channel_axis=channel_axis)(x),
    ),
    "load": (lambda w: {}, load),
    "seed": with_param(fastbn.batchnorm_forward, "x2"),
    "seed, spatial": with_param(fastbn.spatial_batchnorm_forward, "x4"),
    "seed, backward": (pick(dout="x2", cache="cache"), plain(fastbn.batchnorm_backward)),
    "seed, alt": (pick(dout="x2", cache="cache"), plain(fastbn.batchnorm_backward_alt)),
    "seed, spatial backward": (
        pick(dout="x4", cache="cache4"),
        plain(fastbn.spatial_batchnorm_backward),
    ),
    "threads": (lambda w: {"k": 2}, plain(fastbn.set_num_threads)),
}
FUNCTIONS = ["train", "evaluate", "forward", "fixed", "normalize"]
TAKE_X = [*FUNCTIONS, "batch_stats", "layer", "layer, evaluate"]
SEEDS = ["seed", "seed, spatial"]
SEED_BACKWARDS = ["seed, backward", "seed, alt", "seed, spatial backward"]
LAYERS = ["BatchNorm", "BatchNorm2d"]

# --- bad values: label -> (function of the world, kind, words of the message) --------------------


def masked(shape):
    return np.ma.masked_array(np.ones(shape), mask=False)


def written_twice(shape):
    return np.lib.stride_tricks.as_strided(np.zeros(1), shape, (0,) * len(shape))


ARRAY = {  # {0}: the argument
    "complex": (lambda a: a.astype(complex), TypeError, "{0}.*complex128"),
    "object": (lambda a: a.astype(object), TypeError, "{0}.*object"),
    "text": (lambda a: a.astype("U"), TypeError, "{0}.*<U"),
    "bytes": (lambda a: a.astype("S"), TypeError, r"{0}.*\|S"),
    "datetime": (lambda a: a.astype("M8[s]"), TypeError, "{0}.*datetime64"),
    "timedelta": (lambda a: a.astype("m8[s]"), TypeError, "{0}.*timedelta64"),
    "structured": (lambda a: a.astype([("f", "f8")]), TypeError, "{0}.*f8"),
    "masked": (lambda a: masked(a.shape), TypeError, "{0}.*masked"),
    "ragged": (lambda a: [[1.0], [1.0, 2.0]], ValueError, "{0} should be an array, got list"),
}
X = ARRAY | {
    "None": (lambda a: None, ValueError, r"\bx\b.*at least 2 dim.*shape \(\)"),
    "scalar": (lambda a: 3.0, ValueError, r"\bx\b.*at least 2 dim.*shape \(\)"),
    "1-D": (lambda a: a[0, 0], ValueError, r"\bx\b.*at least 2 dim.*shape \(5,\)"),
}
if np.dtype(np.longdouble).itemsize > 8:
    X["long double"] = (lambda a: a.astype(np.longdouble), TypeError, "{0}.*float128")
CHANNELS = {
    "2 channels": (lambda a: a[:, :2], ValueError, "should contain 2 elements not 3"),
    "4 channels": (lambda a: a[:, [0, 1, 2, 0]], ValueError, "should contain 4 elements not 3"),
}
ONE_VALUE = {"n == 1": (lambda a: a[:1, :, :1], ValueError, r"more than 1 value .*\(1, 3, 1\)")}
NO_AXIS = {
    str(axis): (lambda a, axis=axis: axis, AXIS, rf"channel_axis.*-3 to 2 .*got {axis}\b")
    for axis in (3, -4, 10**30)
}
NO_INTEGER = {
    repr(value): (lambda a, value=value: value, TypeError, f"{{0}}.*integer.*{kind}")
    for value, kind in [
        (1.0, "float"),
        ("1", "str"),
        (True, "bool"),
        (np.True_, "bool"),
        ([1], "list"),
        (1j, "complex"),
    ]
}
NONE = {"None": (lambda a: None, TypeError, "{0}.*NoneType")}
VECTOR = ARRAY | {
    "4": (lambda a: np.ones(4), ValueError, "{0} should contain 3 elements not 4"),
    "none": (lambda a: [], ValueError, "{0} should contain 3 elements not 0"),
    "2-D": (lambda a: np.ones((3, 1)), ValueError, r"{0} should be 1-D.*\(3, 1\)"),
    "scalar": (lambda a: 1.0, ValueError, r"{0} should be 1-D.*\(\)"),
    "text alone": (lambda a: "one", ValueError, r"{0} should be 1-D.*\(\)"),
}
IN_PLACE = {
    "list": (lambda a: [0.0, 0.0, 0.0], TypeError, "{0} should be a NumPy array, got list"),
    "integers": (lambda a: np.ones(3, int), TypeError, "{0}.*floating.*int64"),
    "booleans": (lambda a: np.ones(3, bool), TypeError, "{0}.*floating.*bool"),
    "complex": (lambda a: np.ones(3, complex), TypeError, "{0}.*floating.*complex128"),
    "4": VECTOR["4"],
    "2-D": VECTOR["2-D"],
    "masked": VECTOR["masked"],
    "None": (lambda a: None, TypeError, "{0} should be a NumPy array, got NoneType"),
    "read-only": (lambda a: readonly(3), ValueError, "{0}.*writable.*read-only"),
}
NOT_READ = {"None": (lambda a: None, ValueError, "{0} must be defined in evaluation mode")}
NO_NUMBER = {
    "text": (lambda a: "1e-5", TypeError, "{0} should be a real number, got str"),
    "bytes": (lambda a: b"1", TypeError, "{0} should be a real number, got bytes"),
    "complex": (lambda a: 1j, TypeError, "{0} should be a real number, got complex"),
    "list": (lambda a: [1.0], TypeError, "{0} should be a real number, got list"),
    "array": (lambda a: np.ones(1), TypeError, "{0} should be a real number, got ndarray"),
    "beyond": (lambda a: 10**400, ValueError, "{0} should fit a float64"),
    "NaN": (lambda a: np.nan, ValueError, "{0} should .*got nan"),
}
NEGATIVE = {
    "negative": (lambda a: -1e-5, ValueError, "{0} should be at least 0, got -1e-05"),
    "minus infinity": (lambda a: -np.inf, ValueError, "{0} should be at least 0, got -inf"),
}
OUT = {
    "list": (lambda w: [1.0], TypeError, "out should be a plain NumPy array, got list"),
    "masked": (lambda w: masked(w.x.shape), TypeError, "out.*plain.*MaskedArray"),
    "shape": (lambda w: np.zeros((4, 3)), ValueError, r"out.*\(4, 3, 5\), got \(4, 3\)"),
    "float32": (lambda w: w.out.astype("f4"), TypeError, "out.*float64, got float32"),
    "byte order": (
        lambda w: w.out.astype(w.out.dtype.newbyteorder()),
        TypeError,
        "out should have dtype float64",
    ),
    "read-only": (lambda w: readonly(w.x.shape), ValueError, "out.*read-only"),
    "sliding": (
        lambda w: np.lib.stride_tricks.as_strided(np.zeros(90), w.x.shape, (80, 32, 8)),
        ValueError,
        "out.*sliding view",
    ),
    "broadcast": (lambda w: written_twice(w.x.shape), ValueError, "out.*broadcast"),
}
ONTO_X = {
    "reversed x": (lambda w: w.x[::-1], ValueError, "out should not (partially )?overlap x"),
    "x turned": (
        lambda w: w.x.reshape(5, 3, 4).transpose(2, 1, 0),
        ValueError,
        "out should not (partially )?overlap x",
    ),
}
EXACTLY_X = {"x": (lambda w: w.x, ValueError, "out should not overlap x")}
STATS = {
    "number": (lambda w: 3.0, TypeError, "stats should be a Stats or .*float"),
    "list": (lambda w: [w.mean, w.var], TypeError, "stats should be a Stats or .*list"),
    "triple": (lambda w: (w.mean,) * 3, TypeError, "stats should be a Stats or .*tuple"),
    "4 channels": (lambda w: fastbn.Stats.empty(4), ValueError, "stats.*3 channels, got 4"),
    "mean": (lambda w: (np.zeros(4), w.var), ValueError, "stats mean .*3 elements not 4"),
    "var": (lambda w: (w.mean, np.ones(2)), ValueError, "stats var .*3 elements not 2"),
    "no var": (lambda w: (w.mean, None), ValueError, "stats var should be 1-D"),
    "complex": (lambda w: (w.mean + 0j, w.var), TypeError, "stats mean.*complex128"),
    "masked": (lambda w: (w.mean, masked(3)), TypeError, "stats var.*masked"),
}
GRADIENT = ARRAY | {
    "shape": (lambda a: a[:2], ValueError, r"{0} should have shape \(4, 3.*got \(2, 3"),
    "broadcast": (lambda a: a[:1], ValueError, r"{0} should have shape \(4, 3.*got \(1, 3"),
    "None": (lambda a: None, ValueError, r"{0} should have shape .*got \(\)"),
    "integers": (lambda a: a.astype(int), TypeError, "{0}.*floating.*int64"),
    "booleans": (lambda a: a > 0, TypeError, "{0}.*floating.*bool"),
}
SAVED = {
    "None": (lambda w: None, TypeError, "{0} should come from .*forward.*NoneType"),
    "Stats": (lambda w: w.stats, TypeError, "{0} should come from .*forward.*Stats"),
    "array": (lambda w: w.x, TypeError, "{0} should come from .*forward.*ndarray"),
}
NEEDS = {
    repr(value): (lambda w, value=value: value, ValueError, "needs should be three bools")
    for value in (True, None, (True, True), "yes", np.ones(3, bool))
}
CHOICE = {
    repr(value): (lambda w, value=value: value, ValueError, "nonfinite should be one of 'prop")
    for value in ("drop", "", None, 1, ["skip"], np.array(["skip", "raise"]))
}
FEATURES = {
    "0": (lambda w: 0, ValueError, "num_features should be at least 1, got 0"),
    "-1": (lambda w: -1, ValueError, "num_features should be at least 1, got -1"),
}
PARAMETER_DTYPE = {
    str(value): (lambda w, value=value: value, TypeError, "dtype should be float32 or float64")
    for value in (int, "float16", complex, "nonsense", ">f4" if np.little_endian else "<f4")
}
STATE = {
    "None": (lambda w: None, TypeError, "state should be a mapping, got NoneType"),
    "list": (lambda w: [1], TypeError, "state should be a mapping, got list"),
    "nothing": (lambda w: {}, KeyError, "missing bias, num_batches_tracked, running_mean"),
    "unknown": (
        lambda w: w.layer.state_dict() | {"gamma": 1, 7: 1},
        KeyError,
        "unknown keys 7, gamma",
    ),
}
COUNT = {
    "negative": (lambda w: -1, ValueError, "num_batches_tracked should be at least 0"),
    "fraction": (lambda w: 1.5, TypeError, "num_batches_tracked should be an integer"),
    "beyond int64": (lambda w: 2**63, ValueError, "num_batches_tracked should be at most"),
}
PARAM = {
    "None": (lambda w: None, TypeError, "bn_param.*NoneType"),
    "no mode": (lambda w: {}, ValueError, "mode"),
    "mode": (lambda w: {"mode": "fit"}, ValueError, 'Invalid forward batchnorm mode "fit"'),
    "mode an array": (lambda w: {"mode": w.x}, ValueError, "[Ii]nvalid forward batchnorm mode"),
}
PARTS = {
    "one": (lambda w: w.stats, TypeError, "stats should be an iterable of Stats"),
    "None": (lambda w: None, TypeError, "stats should be an iterable of Stats, got None"),
    "nothing": (lambda w: [], ValueError, "stats should contain at least one"),
    "no Stats": (lambda w: [w.stats, 1], TypeError, "stats should contain Stats, got int"),
    "channels": (
        lambda w: [w.stats, fastbn.Stats.empty(4)],
        ValueError,
        r"stats should all have the same number of channels, got \[3, 4\]",
    ),
}
NO_STATS = {
    "pair": (lambda w: (w.mean, w.var), TypeError, "stats should be a Stats, got tuple"),
    "4 channels": (
        lambda w: fastbn.Stats.empty(4),
        ValueError,
        "running_mean should contain 4 elements not 3",
    ),
}
THREADS = {
    "0": (lambda w: 0, ValueError, "k should be from 1 to 8"),
    "9": (lambda w: 9, ValueError, "k should be from 1 to 8"),
}
LENGTH = {"negative": (lambda w: -1, ValueError, "channels should be at least 0, got -1")}
M2 = {name: VECTOR[name] for name in ("complex", "masked", "4", "2-D", "scalar")}
ROWS = {"3-D": (lambda a: np.ones((4, 3, 5)), ValueError, r"\bx should have shape \(N, .*3, 5")}

# (calls, argument, tables): each value of each table is given to each call in place of the argument
TABLE = [
    (TAKE_X, "x", X),
    (["layer", "layer, evaluate"], "x", CHANNELS),
    (["train, no out", "forward, no out", "layer"], "x", ONE_VALUE),
    ([*FUNCTIONS, "batch_stats", "BatchNorm, call"], "channel_axis", NO_AXIS | NO_INTEGER | NONE),
    (FUNCTIONS, "weight", VECTOR),
    (FUNCTIONS, "bias", VECTOR),
    (["train"], "running_mean", {name: IN_PLACE[name] for name in IN_PLACE if name != "None"}),
    (["train"], "running_var", {name: IN_PLACE[name] for name in IN_PLACE if name != "None"}),
    (["update", "layer, replaced"], "running_mean", IN_PLACE),
    (["update", "layer, replaced"], "running_var", IN_PLACE),
    (["evaluate"], "running_mean", VECTOR | NOT_READ),
    (["evaluate"], "running_var", VECTOR | NOT_READ),
    ([*FUNCTIONS, *LAYERS], "eps", NO_NUMBER | NEGATIVE | NONE),
    (["train", "evaluate", "update"], "momentum", NO_NUMBER | NONE),
    ([*LAYERS, "layer, replaced"], "momentum", NO_NUMBER),
    (["layer, replaced"], "eps", NO_NUMBER | NEGATIVE | NONE),
    (["layer, replaced"], "weight", VECTOR),
    (["layer, replaced"], "bias", VECTOR),
    (FUNCTIONS, "out", OUT),
    (FUNCTIONS, "out", ONTO_X),
    (["forward", "fixed"], "out", EXACTLY_X),
    (["backward"], "out", OUT | ONTO_X | EXACTLY_X),
    (["fixed", "normalize"], "stats", STATS),
    (["normalize"], "stats", {"None": (lambda w: None, TypeError, "stats.*NoneType")}),
    (["backward", "layer, backward"], "dy", GRADIENT),
    (["backward"], "saved", SAVED),
    (["backward"], "needs", NEEDS),
    (["update"], "stats", NO_STATS),
    (["update"], "ddof", NO_NUMBER | NEGATIVE | NONE),
    (["var", "std"], "ddof", NO_NUMBER | NONE),
    (["update", *LAYERS], "nonfinite", CHOICE),
    (["merge"], "stats", PARTS),
    (["Stats"], "count", NO_NUMBER | NEGATIVE | NONE),
    (["Stats"], "mean", {name: ARRAY[name] for name in ("complex", "object", "masked")}),
    (["Stats"], "m2", M2),
    (["empty"], "channels", NO_INTEGER | NONE | LENGTH),
    (LAYERS, "num_features", FEATURES | NO_INTEGER),
    (LAYERS, "channel_axis", NO_INTEGER | NONE),
    (LAYERS, "dtype", PARAMETER_DTYPE),
    (["load"], "state", STATE),
    (["load"], "weight", VECTOR),
    (["load"], "running_var", VECTOR),
    (["load"], "num_batches_tracked", COUNT | NONE),
    (SEEDS, "x", {name: ARRAY[name] for name in ("complex", "object", "masked", "ragged")}),
    (SEEDS, "x", ROWS),
    (SEEDS, "gamma", VECTOR),
    (SEEDS, "beta", VECTOR),
    (SEEDS, "bn_param", PARAM),
    (SEEDS, "eps", NO_NUMBER | NEGATIVE | NONE),
    (SEEDS, "momentum", NO_NUMBER | NONE),
    (SEEDS, "running_mean", VECTOR),
    (SEEDS, "running_var", VECTOR),
    (SEED_BACKWARDS, "dout", GRADIENT),
    (SEED_BACKWARDS, "cache", SAVED),
    (["threads"], "k", THREADS | NO_INTEGER | NONE),
]
OF_WORLD = ("out", "stats", "state", "cache", "saved", "bn_param")  # bad values made from others
CASES = [
    pytest.param(call, argument, *entry, id=f"{call}-{argument}-{label}")
    for calls, argument, table in TABLE
    for call in calls
    for label, entry in table.items()
]


def test_the_calls_are_right_before_they_are_made_wrong():
    before = fastbn.get_num_threads()
    try:
        for arguments, function in CALLS.values():
            w = world()
            function(w, **arguments(w))
    finally:
        fastbn.set_num_threads(before)


@pytest.mark.parametrize(("call", "argument", "bad", "kind", "message"), CASES)
def test_refused(call, argument, bad, kind, message):
    w = world()
    arguments, function = CALLS[call]
    given = arguments(w)
    value = bad(w if argument in OF_WORLD else given.get(argument, w.mean))
    before = picture(w)
    with pytest.raises(kind, match="(?s)" + message.format(argument)):
        function(w, **(given | {argument: value}))
    after = picture(w)
    assert list(after) == list(before)
    for name, a in before.items():
        np.testing.assert_array_equal(after[name], a, err_msg=name)


def test_running_arrays_may_not_overlap():
    both = np.ones(4)
    for call in (
        lambda: fastbn.batch_norm(normals((6, 3)), both[:3], both[1:], training=True),
        lambda: fastbn.update_running_stats(both[:3], both[1:], fastbn.Stats(2, [1] * 3, [1] * 3)),
    ):
        with pytest.raises(ValueError, match="running_var should not overlap running_mean"):
            call()
    np.testing.assert_array_equal(both, 1)
    between = np.zeros(6)  # side by side is no overlap
    fastbn.batch_norm(normals((6, 3)), between[::2], between[1::2], training=True)
    assert between.all()


def test_gradients_are_both_accumulated_when_numpy_raises():
    bn = fastbn.BatchNorm(2)
    bn(normals((4, 2)))
    bn.weight_grad[:] = bn.bias_grad[:] = 3e38
    with np.errstate(all="raise"):
        bn.backward(np.full((4, 2), 1e38))
    assert np.isposinf(bn.bias_grad).all()


def test_out_may_not_hold_the_running_arrays_or_the_parameters():
    for name in ("running_mean", "running_var", "weight", "bias"):
        out = np.ones((4, 3, 5))
        arguments = {"running_mean": np.zeros(3), "running_var": np.ones(3), name: out[0, :, 0]}
        with pytest.raises(ValueError, match=f"out should not overlap {name}"):
            fastbn.batch_norm(normals(out.shape), training=True, out=out, **arguments)
        np.testing.assert_array_equal(out, 1)
