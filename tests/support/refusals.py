"""Every argument of every public function, given wrong: refused by name, and nothing is changed.

A row of a table is (calls, argument, bad values): each value is given to each call in place of the
argument. What is in `ARRAYS` is checked by `fastbn._arrays.validate`, what is in `NUMBERS` by
`fastbn._runtime`, what is in `OTHERS` by the public files.
"""

import numpy as np
import pytest
import wrong
from calls import (
    ACTIVATED,
    CALLS,
    FUNCTIONS,
    HALVES,
    LAYERS,
    SEED_BACKWARDS,
    SEEDS,
    TAKE_X,
    THREADS,
    WEIGHTED,
    picture,
    world,
)

ARRAYS = [
    (TAKE_X, "x", wrong.X),
    (FUNCTIONS, "x", wrong.NARROW_X),
    (["train, no out", "train, x alone", "forward, x alone", "layer"], "x", wrong.ONE_VALUE),
    (["train, x alone", "forward, x alone", "layer, fitting", "layer, lazy"], "x", wrong.PYTORCHS),
    (["train, x alone", "forward, x alone"], "x", wrong.ONE_ROW),
    ([*FUNCTIONS, "batch_stats", "BatchNorm, call"], "channel_axis", wrong.NO_AXIS),
    (FUNCTIONS, "weight", wrong.VECTOR),
    (FUNCTIONS, "bias", wrong.VECTOR),
    (["layer, replaced"], "weight", wrong.VECTOR),
    (["layer, replaced"], "bias", wrong.VECTOR),
    (["train"], "running_mean", wrong.IN_PLACE_IF_GIVEN),
    (["train"], "running_var", wrong.IN_PLACE_IF_GIVEN),
    (["update", "layer, replaced"], "running_mean", wrong.IN_PLACE),
    (["update", "layer, replaced"], "running_var", wrong.IN_PLACE),
    (["train", "train, no out", "update"], "running_var", wrong.OVERLAPPING),
    (["evaluate"], "running_mean", wrong.VECTOR | wrong.NOT_READ),
    (["evaluate"], "running_var", wrong.VECTOR | wrong.NOT_READ),
    (FUNCTIONS, "out", wrong.OUT | wrong.ONTO_X),
    (["forward", "fixed"], "out", wrong.EXACTLY_X),
    (["backward"], "out", wrong.OUT | wrong.ONTO_X | wrong.EXACTLY_X | wrong.ONTO_DY),
    (WEIGHTED, "weights", wrong.WEIGHTS),
    (["forward, options"], "weights", wrong.IN_WEIGHTS),
    ([*ACTIVATED, "layer, options"], "residual", wrong.RESIDUAL),
    (["forward, options"], "out", wrong.OUT | wrong.ONTO_X | wrong.EXACTLY_X | wrong.ONTO_RESIDUAL),
    (["normalize, options"], "out", wrong.OUT | wrong.ONTO_X),
    (["train"], "running_mean", wrong.IN_OUT),
    (["train"], "running_var", wrong.IN_OUT),
    (["train"], "weight", wrong.IN_OUT),
    (["train"], "bias", wrong.IN_OUT),
    (["backward", "layer, backward"], "dy", wrong.GRADIENT),
    (["backward"], "saved", wrong.NARROW_SAVED),
    (["denormalize"], "y", wrong.Y),
    (["denormalize", *HALVES], "channel_axis", wrong.NO_AXIS),
    (["denormalize"], "weight", wrong.VECTOR | wrong.ZERO),
    (["denormalize"], "bias", wrong.VECTOR),
    (["denormalize", "input"], "out", wrong.OUT),
    (HALVES, "x", wrong.X),
    ([*HALVES, "double", "ghost, backward"], "dy", wrong.GRADIENT),
    (["double"], "ddx", wrong.GRADIENT),
    (["input"], "weight", wrong.VECTOR),
    (["input"], "out", wrong.ONTO_X | wrong.EXACTLY_X | wrong.ONTO_DY),
    (["GradSums"], "sum_dy_xhat", wrong.M2),
    (["double"], "ddweight", wrong.VECTOR),
    (["double"], "ddbias", wrong.VECTOR),
    (["ghost", "renorm"], "weights", wrong.WEIGHTS),
    (["ghost", "renorm"], "residual", wrong.RESIDUAL),
    (["ghost", "renorm"], "x", wrong.ARRAY),
    (["Stats"], "mean", {name: wrong.ARRAY[name] for name in ("complex", "object", "masked")}),
    (["Stats"], "m2", wrong.M2),
    (LAYERS, "dtype", wrong.PARAMETER_DTYPE),
    (["load"], "weight", wrong.VECTOR),
    (["load"], "running_var", wrong.VECTOR),
    (
        SEEDS,
        "x",
        {name: wrong.ARRAY[name] for name in ("complex", "object", "masked", "ragged", "stubborn")},
    ),
    (SEEDS, "gamma", wrong.VECTOR),
    (SEEDS, "beta", wrong.VECTOR),
    (SEEDS, "running_mean", wrong.VECTOR),
    (SEEDS, "running_var", wrong.VECTOR),
    (SEED_BACKWARDS, "dout", wrong.GRADIENT),
]
NUMBERS = [
    (
        [*FUNCTIONS, "batch_stats", "population", "BatchNorm, call"],
        "channel_axis",
        wrong.NO_INTEGER | wrong.NONE,
    ),
    (LAYERS, "channel_axis", wrong.NO_INTEGER | wrong.NONE),
    (
        [*FUNCTIONS, *LAYERS, "denormalize", *HALVES],
        "eps",
        wrong.NO_NUMBER | wrong.NEGATIVE | wrong.NONE,
    ),
    (["layer, replaced"], "eps", wrong.NO_NUMBER | wrong.NEGATIVE | wrong.NONE),
    (SEEDS, "eps", wrong.NO_NUMBER | wrong.NEGATIVE | wrong.NONE),
    (
        [*ACTIVATED, "BatchNorm, activation"],
        "negative_slope",
        wrong.NO_NUMBER | wrong.NEGATIVE | wrong.NONE,
    ),
    (["train", "evaluate", "update"], "momentum", wrong.NO_NUMBER | wrong.NONE),
    ([*LAYERS, "layer, replaced"], "momentum", wrong.NO_NUMBER),
    (SEEDS, "momentum", wrong.NO_NUMBER | wrong.NONE),
    (["update"], "ddof", wrong.NO_NUMBER | wrong.NEGATIVE | wrong.NONE),
    (["var", "std"], "ddof", wrong.NO_NUMBER | wrong.NONE),
    (["Stats"], "count", wrong.NO_NUMBER | wrong.NEGATIVE | wrong.NONE),
    (["empty"], "channels", wrong.NO_INTEGER | wrong.NONE | wrong.LENGTH),
    (LAYERS, "virtual_batch_size", wrong.GROUP | wrong.NO_INTEGER),
    (["BatchRenorm"], "rmax", wrong.NO_NUMBER | wrong.NONE | wrong.RMAX),
    (["BatchRenorm"], "dmax", wrong.NO_NUMBER | wrong.NONE | wrong.NEGATIVE),
    (["layer, adapt"], "prior", wrong.NO_NUMBER | wrong.NONE | wrong.NEGATIVE | wrong.INFINITE),
    (LAYERS, "num_features", wrong.FEATURES | wrong.NO_INTEGER),
    (["layer, lazy"], "x", wrong.NO_FEATURES),
    (["load"], "num_batches_tracked", wrong.COUNT | wrong.NONE),
    (["update", *LAYERS], "nonfinite", wrong.CHOICE),
    ([*ACTIVATED, *LAYERS], "activation", wrong.ACTIVATION),
    (THREADS, "k", wrong.NO_TEAM | wrong.NO_INTEGER | wrong.NONE),
]
OTHERS = [
    (["layer", "layer, evaluate"], "x", wrong.CHANNELS),
    (["layer 1d"], "x", wrong.ranks("2D or 3D", 1, 4)),
    (["layer 2d"], "x", wrong.ranks("4D", 3, 5)),
    (["layer 3d"], "x", wrong.ranks("5D", 4)),
    (["fixed", "normalize", "denormalize", *HALVES], "stats", wrong.STATS),
    (["input"], "stats", wrong.PAIR),
    (["input"], "sums", wrong.SUMS),
    (["add sums"], "other", wrong.OTHER_SUMS),
    (["double"], "saved", wrong.SAVED | wrong.SAVED_WITH),
    (["layer, update"], "stats", wrong.NO_STATS_OF_LAYER),
    (["layer, adapt"], "batches", wrong.BATCHES_OF_LAYER),
    (LAYERS, "convention", wrong.CONVENTION),
    (["BatchRenorm"], "track_running_stats", wrong.UNTRACKED),
    (FUNCTIONS, "channel_axis", wrong.AXES),
    (["normalize"], "stats", {"None": (wrong.always(None), TypeError, "stats.*NoneType")}),
    (["update"], "stats", wrong.NO_STATS),
    (["merge"], "stats", wrong.PARTS),
    (["population"], "batches", wrong.BATCHES),
    (["shift"], "stats", wrong.NO_STATS_AT_ALL),
    (["shift"], "reference", wrong.NO_STATS_AT_ALL | wrong.REFERENCE),
    (["from_array"], "a", wrong.DIGITS),
    (["backward"], "saved", wrong.SAVED),
    (SEED_BACKWARDS, "cache", wrong.SAVED),
    (["backward"], "needs", wrong.NEEDS),
    (["load"], "state", wrong.STATE),
    (["seed"], "x", wrong.shapes("N, D", (4, 3, 5), (4, 3, 2))),
    (["seed, spatial"], "x", wrong.shapes("N, C, H, W", (4, 3), (4, 3, 5), (4, 3, 2))),
    (SEEDS, "bn_param", wrong.PARAM),
]


def each(table):
    """A decorator: the test runs once for each call, argument and bad value of a table."""
    cases = [
        pytest.param(call, argument, *entry, id=f"{call}-{argument}-{label}")
        for calls, argument, values in table
        for call in calls
        for label, entry in values.items()
    ]
    return pytest.mark.parametrize(("call", "argument", "bad", "kind", "message"), cases)


def assert_refused(call, argument, bad, kind, message):
    """The call with a bad value fails with these words, changes nothing, and works without it."""
    w = world()
    arguments, function = CALLS[call]
    given = arguments(w)
    value = bad(given.get(argument, w.mean), w)
    changes = value if isinstance(value, wrong.Changes) else {argument: value}
    before = picture(w)
    with pytest.raises(kind, match="(?s)" + message.format(argument)):
        function(w, **(given | changes))
    after = picture(w)
    assert list(after) == list(before)
    for name, a in before.items():
        np.testing.assert_array_equal(after[name], a, err_msg=name)
    function(w, **given)
