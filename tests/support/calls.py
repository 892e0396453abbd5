"""Every public function called right: a world of arguments, and the calls by name.

`refusals` gives them wrong arguments, one at a time.
"""

from types import SimpleNamespace

import numpy as np
from data import normals

import fastbn

USUAL = object()


def world():
    """Fresh arguments of every kind, among them layers that have been used and ones that have not.

    `memory` goes on behind x, `dy_memory` behind dy, and `residual_memory` behind the residual.
    """
    w = SimpleNamespace(memory=normals(72, offset=1.0), dy_memory=normals(72, seed=1))
    w.residual_memory = normals(72, seed=4)
    w.x, w.dy, w.residual = (
        a[:60].reshape(4, 3, 5) for a in (w.memory, w.dy_memory, w.residual_memory)
    )
    w.weights = np.arange(20.0).reshape(4, 5) % 3
    w.out = np.full(w.x.shape, 7.0)
    w.weight, w.bias = normals(3, seed=2), normals(3, seed=3)
    w.mean, w.var, w.both = np.zeros(3), np.ones(3), np.ones(4)
    w.y, w.saved = fastbn.forward(w.x, w.weight)
    w.stats = w.saved.stats
    w.x2, w.x4 = w.x[:, :, 0].copy(), w.x[:, :, :, None].copy()
    w.x5 = w.x4[..., None].copy()
    w.bn_param = {"mode": "train", "running_mean": np.zeros(3), "running_var": np.ones(3)}
    w.cache = fastbn.batchnorm_forward(w.x2, w.weight, w.bias, dict(w.bn_param))[1]
    w.cache4 = fastbn.spatial_batchnorm_forward(w.x4, w.weight, w.bias, dict(w.bn_param))[1]
    w.layer = fastbn.BatchNorm(3, dtype=np.float64)
    w.layer.backward(w.layer(w.x))
    w.lazy = fastbn.BatchNorm(None)
    w.ghost = fastbn.BatchNorm(3, dtype=np.float64, virtual_batch_size=2)
    w.renorm = fastbn.BatchRenorm(3, dtype=np.float64)
    w.ghost.backward(w.ghost(w.x))
    w.sums = fastbn.backward_sums(w.dy, w.x, w.stats)
    w.ddx, w.batches = normals(w.x.shape, seed=5), [w.x, w.x[:2]]
    w.new = [kind(3) for kind in (fastbn.BatchNorm1d, fastbn.BatchNorm2d, fastbn.BatchNorm3d)]
    return w


def picture(w):
    """A copy of everything that a call could have changed."""
    parts = {name: value for name, value in vars(w).items() if type(value) is np.ndarray}
    for i, layer in enumerate((w.layer, w.lazy, w.ghost, w.renorm, *w.new)):
        parts |= {f"layer {i}, {name}": value for name, value in vars(layer).items()}
    parts |= {f"bn_param.{name}": value for name, value in w.bn_param.items()}
    parts |= {"stats.mean": w.stats.mean, "stats.m2": w.stats.m2}
    parts |= {"threads": fastbn.get_num_threads()}
    return {name: np.copy(value) for name, value in parts.items()}


def pick(*names, **fixed):
    """Arguments of these names; `fixed` ones are called otherwise in the world."""
    return lambda w: {name: getattr(w, fixed.get(name, name)) for name in [*names, *fixed]}


def with_options(*names):
    """Arguments of these names, a residual and an activation."""
    picked = pick(*names, "residual")
    return lambda w: picked(w) | {"activation": "leaky_relu", "negative_slope": 0.1}


def plain(function):
    return lambda w, **arguments: function(**arguments)


def train(w, **arguments):
    return fastbn.batch_norm(training=True, **arguments)


def evaluate_layer(w, x):
    w.layer.training = False
    try:
        return w.layer(x)
    finally:
        w.layer.training = True


def replaced(w, **attributes):
    """Call a layer some of whose attributes were set by hand, and put them back."""
    kept = {name: getattr(w.layer, name) for name in attributes}
    vars(w.layer).update(attributes)
    try:
        w.layer(w.x)
    finally:
        vars(w.layer).update(kept)


def load(w, state=USUAL, **changes):
    w.layer.load_state_dict(w.layer.state_dict() | changes if state is USUAL else state)


def with_param(function, x_name):
    """A forward pass of the seed interface; one that is refused leaves its dict as it was."""

    def call(w, x, gamma, beta, bn_param=USUAL, **settings):
        given = w.bn_param | settings if bn_param is USUAL else bn_param
        before = dict(given) if isinstance(given, dict) else None
        try:
            function(x, gamma, beta, given)
        except Exception:
            if before is not None:
                assert given.keys() == before.keys()
                assert all(given[name] is value for name, value in before.items())
            raise

    return (lambda w: {"x": getattr(w, x_name), "gamma": w.weight, "beta": w.bias}), call


def block(w, k):
    with fastbn.threads(k):
        pass


RUNNING = {"running_mean": "mean", "running_var": "var"}
CALLS = {  # name: (arguments that are right, function of the arguments)
    "train": (pick("x", "weight", "bias", "out", **RUNNING), train),
    "evaluate": (pick("x", "weight", "bias", "out", **RUNNING), plain(fastbn.batch_norm)),
    "forward": (pick("x", "weight", "bias", "out"), plain(fastbn.forward)),
    "train, no out": (pick("x", **RUNNING), train),
    "train, x alone": (pick("x"), train),
    "forward, x alone": (pick("x"), plain(fastbn.forward)),
    "forward, options": (
        with_options("x", "weight", "bias", "weights", "out"),
        plain(fastbn.forward),
    ),
    "fixed, options": (
        with_options("x", "weight", "bias", "weights", "stats"),
        plain(fastbn.forward),
    ),
    "normalize, options": (
        with_options("x", "stats", "weight", "bias", "out"),
        plain(fastbn.normalize),
    ),
    "batch_stats, weights": (pick("x", "weights"), plain(fastbn.batch_stats)),
    "layer, options": (pick("x", "residual", "weights"), lambda w, x, **g: w.layer(x, **g)),
    "BatchNorm, activation": (
        lambda w: {"num_features": 3, "activation": "leaky_relu", "negative_slope": 0.1},
        plain(fastbn.BatchNorm),
    ),
    "fixed": (pick("x", "stats", "weight", "bias", "out"), plain(fastbn.forward)),
    "normalize": (pick("x", "stats", "weight", "bias", "out"), plain(fastbn.normalize)),
    "batch_stats": (pick("x"), plain(fastbn.batch_stats)),
    "backward": (pick("dy", "saved", "out"), plain(fastbn.backward)),
    "denormalize": (pick("y", "stats", "weight", "bias", "out"), plain(fastbn.denormalize)),
    "sums": (pick("dy", "x", "stats"), plain(fastbn.backward_sums)),
    "input": (pick("dy", "x", "stats", "sums", "weight", "out"), plain(fastbn.backward_input)),
    "GradSums": (lambda w: {"sum_dy": w.mean, "sum_dy_xhat": w.var}, plain(fastbn.GradSums)),
    "add sums": (lambda w: {"other": w.sums}, lambda w, other: w.sums + other),
    "double": (
        pick("dy", "saved", "ddx", ddweight="mean", ddbias="var"),
        plain(fastbn.double_backward),
    ),
    "update": (pick("stats", **RUNNING), plain(fastbn.update_running_stats)),
    "merge": (lambda w: {"stats": [w.stats, w.stats]}, plain(fastbn.merge_stats)),
    "population": (
        lambda w: {"batches": [w.x, (w.x[:1], w.weights[:1])]},
        plain(fastbn.population_stats),
    ),
    "shift": (
        lambda w: {"stats": w.stats, "reference": fastbn.Stats(2, w.mean, w.var)},
        plain(fastbn.covariate_shift),
    ),
    "from_array": (lambda w: {"a": w.stats.to_array()}, plain(fastbn.Stats.from_array)),
    "Stats": (lambda w: {"count": 2, "mean": w.mean, "m2": w.var}, plain(fastbn.Stats)),
    "var": (lambda w: {"ddof": 1}, lambda w, ddof: w.stats.var(ddof)),
    "std": (lambda w: {"ddof": 1}, lambda w, ddof: w.stats.std(ddof)),
    "empty": (lambda w: {"channels": 3}, plain(fastbn.Stats.empty)),
    "layer": (pick("x"), lambda w, x: w.layer(x)),
    "layer, lazy": (pick("x"), lambda w, x: w.lazy(x)),
    "ghost": (pick("x", "residual", "weights"), lambda w, x, **g: w.ghost(x, **g)),
    "ghost, backward": (
        pick("dy"),
        lambda w, dy: w.ghost.backward(dy),
    ),
    "renorm": (pick("x", "residual", "weights"), lambda w, x, **g: w.renorm(x, **g)),
    "layer, update": (pick("stats"), lambda w, stats: w.layer.update(stats, replace=True)),
    "layer, adapt": (
        pick("batches"),
        lambda w, batches, prior=1: w.layer.adapt(batches, prior=prior),
    ),
    "layer, evaluate": (pick("x"), evaluate_layer),
    "layer, replaced": (lambda w: {}, replaced),
    "layer, backward": (pick("dy"), lambda w, dy: w.layer.backward(dy)),
    "layer, fitting": (pick("x"), lambda w, x: fastbn.BatchNorm(x.shape[1])(x)),
    "layer 1d": (pick("x"), lambda w, x: w.new[0](x)),
    "layer 2d": (pick(x="x4"), lambda w, x: w.new[1](x)),
    "layer 3d": (pick(x="x5"), lambda w, x: w.new[2](x)),
    "BatchNorm": (lambda w: {"num_features": 3}, plain(fastbn.BatchNorm)),
    "BatchNorm2d": (lambda w: {"num_features": 3}, plain(fastbn.BatchNorm2d)),
    "BatchRenorm": (lambda w: {"num_features": 3}, plain(fastbn.BatchRenorm)),
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
    "threads, block": (lambda w: {"k": 2}, block),
}
FUNCTIONS = ["train", "evaluate", "forward", "fixed", "normalize"]
WEIGHTED = ["forward, options", "fixed, options", "batch_stats, weights", "layer, options"]
ACTIVATED = ["forward, options", "fixed, options", "normalize, options"]
TAKE_X = [*FUNCTIONS, "batch_stats", "layer", "layer, evaluate"]
SEEDS = ["seed", "seed, spatial"]
SEED_BACKWARDS = ["seed, backward", "seed, alt", "seed, spatial backward"]
LAYERS = ["BatchNorm", "BatchNorm2d", "BatchRenorm"]
HALVES = ["sums", "input"]  # of a backward pass
THREADS = ["threads", "threads, block"]
