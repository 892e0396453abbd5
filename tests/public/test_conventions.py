"""Six systems' batch norm: each against its published formula, and against itself where it is here.

A trace is what a layer gives for a few batches: output, running mean and variance after each, and
an evaluation in the end.
"""

import importlib.util
import json
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from data import normals, snapshot
from process import run_python

import fastbn
from fastbn import BatchNorm

W, B = np.array([1.5, -0.5, 2.0, 1.0]), np.array([0.5, 1.0, -2.0, 0.25])
EXPLICIT = [(0.25, 0.25), (2.0**-10, 0.75), (0.0, 0.0), (0.125, 1.0)]  # float32 has them, too


def weigh_old(momentum, running, batch):
    return running * momentum + batch * (1 - momentum)


def weigh_new(momentum, running, batch):
    return (1 - momentum) * running + momentum * batch


def population(x):
    return x.var(axis=0)


def unbiased(x):
    return x.var(axis=0) * (len(x) / max(len(x) - 1, 1))  # the `adjust` of Chainer


class Published(NamedTuple):
    """What a system's documentation or source says."""

    eps: float
    momentum: float
    moved: Callable
    variance: Callable
    first_var: float = 1.0


PUBLISHED = {
    # torch/nn/modules/batchnorm.py of PyTorch 2.13
    "torch": Published(1e-5, 0.1, weigh_new, unbiased),
    # keras/src/layers/normalization/batch_normalization.py of Keras 3.15
    "keras": Published(1e-3, 0.99, weigh_old, population),
    # flax/linen/normalization.py and flax/nnx/nn/normalization.py of Flax 0.12.8
    "flax": Published(1e-5, 0.99, weigh_old, population),
    # BatchNormalization of operator sets 14 and 15, training_mode=1; it has no first values
    "onnx": Published(1e-5, 0.9, weigh_old, population),
    # chainer/{links,functions}/normalization/batch_normalization.py of Chainer 7.8.1
    "chainer": Published(2e-5, 0.9, weigh_old, unbiased),
    # the exercise cs231n/layers.py
    "cs231n": Published(1e-5, 0.9, weigh_old, population, 0.0),
}
OTHERS = [name for name in PUBLISHED if name != "torch"]
each_convention = pytest.mark.parametrize("convention", PUBLISHED)
each_other = pytest.mark.parametrize("convention", OTHERS)


def batches(sizes=(6, 5, 1)):
    """With variances that an eps matters to; a single row, unless left out."""
    return [normals((n, 4), seed=n, offset=2.0, scale=0.05) for n in sizes]


def sizes_for(convention):
    return (6, 5) if convention == "torch" else (6, 5, 1)


def trace_of_formula(convention, eps=None, momentum=None):
    rules = PUBLISHED[convention]
    eps = rules.eps if eps is None else eps
    momentum = rules.momentum if momentum is None else momentum
    mean, var = np.zeros(4), np.full(4, rules.first_var)

    def normalized(x, mean, var):
        with np.errstate(all="ignore"):  # eps = 0 and var = 0: fastbn gives bias
            return np.where(var + eps == 0, 0.0, (x - mean) / np.sqrt(var + eps)) * W + B

    trace = []
    for x in batches(sizes_for(convention)):
        y = normalized(x, x.mean(axis=0), x.var(axis=0))
        mean = rules.moved(momentum, mean, x.mean(axis=0))
        var = rules.moved(momentum, var, rules.variance(x))
        trace += [y, mean, var]
    return [*trace, normalized(x, mean, var)]


def trace_of_layer(bn):
    bn.weight[:], bn.bias[:] = W, B
    trace = []
    for x in batches(sizes_for(bn.convention)):
        trace += [bn(x), bn.running_mean.copy(), bn.running_var.copy()]
    return [*trace, bn.eval()(x)]


def close(got, expected, tolerance=1e-12, *, outputs=None):
    """Two traces; outputs may have another tolerance than running statistics."""
    assert len(got) == len(expected) in (7, 10)
    for mine, theirs in zip(got, expected, strict=True):
        within = outputs if outputs and mine.ndim == 2 else tolerance
        np.testing.assert_allclose(mine, theirs, rtol=within, atol=within)


# --- the formulas --------------------------------------------------------------------------------


@each_convention
def test_a_new_layer(convention):
    bn, rules = BatchNorm(4, convention=convention), PUBLISHED[convention]
    assert (bn.convention, bn.eps, bn.momentum) == (convention, rules.eps, rules.momentum)
    bn.running_mean[:] = bn.running_var[:] = 7.0
    bn.reset_running_stats()
    for layer in (bn, BatchNorm(4, convention=convention)):
        np.testing.assert_array_equal(layer.running_mean, 0.0)
        np.testing.assert_array_equal(layer.running_var, rules.first_var)


def test_without_a_convention_it_is_pytorchs():
    assert BatchNorm(4).convention == "torch"
    assert (BatchNorm(4).eps, BatchNorm(4).momentum) == (1e-5, 0.1)


@each_convention
def test_defaults(convention):
    bn = BatchNorm(4, convention=convention, dtype=np.float64)
    close(trace_of_layer(bn), trace_of_formula(convention))


@each_convention
@pytest.mark.parametrize(("eps", "momentum"), EXPLICIT)
def test_arguments_given_by_hand(convention, eps, momentum):
    bn = BatchNorm(4, eps, momentum, convention=convention, dtype=np.float64)
    assert (bn.eps, bn.momentum) == (eps, momentum)
    close(trace_of_layer(bn), trace_of_formula(convention, eps, momentum))


@each_convention
def test_what_is_given_by_hand_may_be_pytorchs_default(convention):
    bn = BatchNorm(4, 1e-5, 0.1, convention=convention, dtype=np.float64)
    assert (bn.eps, bn.momentum) == (1e-5, 0.1)
    close(trace_of_layer(bn), trace_of_formula(convention, 1e-5, 0.1))


@each_convention
def test_what_is_given_by_hand_may_be_another_layers(convention):
    other = BatchNorm(4)
    bn = BatchNorm(4, other.eps, other.momentum, convention=convention)
    assert (bn.eps, bn.momentum) == (1e-5, 0.1)


@each_convention
def test_a_momentum_that_is_set_later_keeps_its_sense(convention):
    bn = BatchNorm(4, convention=convention, dtype=np.float64)
    bn.momentum = 0.25
    close(trace_of_layer(bn), trace_of_formula(convention, momentum=0.25))


@each_convention
def test_momentum_none_is_the_cumulative_average(convention):
    bn = BatchNorm(4, momentum=None, convention=convention, dtype=np.float64)
    assert bn.momentum is None
    seen = batches((6, 5, 7))
    for x in seen:
        bn(x)
    means = np.mean([x.mean(axis=0) for x in seen], axis=0)
    variances = np.mean([PUBLISHED[convention].variance(x) for x in seen], axis=0)
    np.testing.assert_allclose(bn.running_mean, means, rtol=1e-12)
    np.testing.assert_allclose(bn.running_var, variances, rtol=1e-12)


@each_convention
def test_statistics_by_hand_move_as_a_batch_does(convention):
    bn, other = (BatchNorm(4, convention=convention, dtype=np.float64) for _ in range(2))
    for x in batches(sizes_for(convention)):
        bn(x)
        other.update(fastbn.batch_stats(x))
    np.testing.assert_allclose(other.running_mean, bn.running_mean, rtol=1e-14)
    np.testing.assert_allclose(other.running_var, bn.running_var, rtol=1e-14)


# --- one value per channel, and none -------------------------------------------------------------


@each_other
@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 1, 1)], ids=str)
def test_one_value_gives_the_bias(convention, shape):
    bn = BatchNorm(4, convention=convention, dtype=np.float64)
    bn.weight[:], bn.bias[:] = W, B
    y = bn(np.full(shape, 3.0))
    np.testing.assert_array_equal(y.ravel(), B)
    np.testing.assert_array_equal(bn.backward(np.ones(shape)), 0.0)
    np.testing.assert_array_equal(bn.weight_grad, 0.0)
    np.testing.assert_array_equal(bn.bias_grad, 1.0)
    assert bn.num_batches_tracked == 1


def test_pytorch_refuses_one_value():
    bn = BatchNorm(4, convention="torch")
    before = snapshot(bn)
    with pytest.raises(ValueError, match=r"Expected more than 1 value .* got input size \(1, 4\)"):
        bn(np.ones((1, 4)))
    for key, value in snapshot(bn).items():
        np.testing.assert_array_equal(value, before[key])


@each_convention
def test_an_empty_batch_changes_nothing(convention):
    bn = BatchNorm(4, convention=convention)
    before = snapshot(bn)
    assert bn(np.empty((0, 4))).shape == (0, 4)
    for key, value in snapshot(bn).items():
        np.testing.assert_array_equal(value, before[key])


@each_convention
def test_layers_of_a_rank_and_lazy_ones_have_conventions(convention):
    rules = PUBLISHED[convention]
    for layer, rank in ((fastbn.BatchNorm1d, 3), (fastbn.BatchNorm2d, 4), (fastbn.BatchNorm3d, 5)):
        bn = layer(None, convention=convention, momentum=1.0)
        bn(normals((3,) * rank, scale=3.0))
        expected = rules.first_var if rules.moved is weigh_old else bn.saved.stats.var(1)
        np.testing.assert_allclose(bn.running_var, expected, rtol=1e-6)
        assert bn.eps == rules.eps


@pytest.mark.parametrize("bad", ["Keras", "tensorflow", "", None, 1])
def test_other_conventions_are_refused(bad):
    with pytest.raises(ValueError, match=r"convention should be one of 'torch', .*'cs231n', got"):
        BatchNorm(4, convention=bad)


# --- the systems themselves ----------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{}, {"eps": 0.25, "momentum": 0.75}], ids=["default", "own"])
def test_pytorch_itself(arguments):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm1d(4, dtype=torch.float64, **arguments)
    theirs.load_state_dict(
        theirs.state_dict() | {"weight": torch.from_numpy(W), "bias": torch.from_numpy(B)}
    )
    trace = []
    with torch.no_grad():
        for x in batches((6, 5)):
            y = theirs(torch.from_numpy(x)).numpy()
            trace += [y, theirs.running_mean.numpy().copy(), theirs.running_var.numpy().copy()]
        trace.append(theirs.eval()(torch.from_numpy(x)).numpy())
    close(trace_of_layer(BatchNorm(4, convention="torch", dtype=np.float64, **arguments)), trace)


def test_the_seed_interface():
    bn_param, trace = {"mode": "train"}, []
    for x in batches():
        y = fastbn.batchnorm_forward(x, W, B, bn_param)[0]
        trace += [y, bn_param["running_mean"], bn_param["running_var"]]
    trace.append(fastbn.batchnorm_forward(x, W, B, bn_param | {"mode": "test"})[0])
    close(trace_of_layer(BatchNorm(4, convention="cs231n", dtype=np.float64)), trace)


def test_figures_of_chainer():
    """What Chainer 7.8.1 gives: it needs NumPy below 1.24, and cannot be where fastbn is."""
    x = np.array([[0, 1], [9, 16], [36, 49], [81, 100]]) / 1024
    bn = BatchNorm(2, convention="chainer", dtype=np.float64)
    bn.weight[:], bn.bias[:] = [2, 3], [1, -1]
    first, second = bn(x), bn(x[1:] * 2)
    np.testing.assert_allclose(first[0], [-0.9791939139021992, -4.176297977297475], rtol=1e-12)
    np.testing.assert_allclose(second[0], [-1.2157597760007701, -4.378565067588432], rtol=1e-12)
    np.testing.assert_array_equal(bn(x[:1]), [[1.0, -1.0]])
    mean, var = (
        [0.009874511718749998, 0.013048339843749998],
        [0.7295564146041871, 0.7297634382247926],
    )
    np.testing.assert_allclose(bn.running_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(bn.running_var, var, rtol=1e-12)
    last = bn.eval()(x)[0]
    np.testing.assert_allclose(last, [0.9768788073534612, -1.0423931287087556], rtol=1e-12)


# Keras and Flax run in a process of their own: they start threads, of which forks of this one
# would warn, and Keras reads its settings when it is imported. Their statistics are float32.
SYSTEMS = {
    "keras": """
import keras
keras.config.set_floatx("float64")
def layer(arguments):
    bn = keras.layers.BatchNormalization(**arguments)
    bn.build((None, 4))
    bn.gamma.assign(W)
    bn.beta.assign(B)
    return lambda x, training: (bn(x, training=training), bn.moving_mean, bn.moving_variance)
""",
    "flax": """
import jax
from flax import linen
def layer(arguments):
    bn = linen.BatchNorm(use_fast_variance=False, **arguments)
    state = dict(bn.init(jax.random.key(0), XS[0], use_running_average=True))
    state["params"] = {"scale": W, "bias": B}
    def call(x, training):
        y, new = bn.apply(state, x, use_running_average=not training, mutable=["batch_stats"])
        state.update(new)
        return y, new["batch_stats"]["mean"], new["batch_stats"]["var"]
    return call
""",
}
SCRIPT = """
import json, warnings
warnings.simplefilter("ignore")
import numpy as np
W, B, *XS = [np.array(a) for a in %s]
%s
for arguments in ({}, {"epsilon": 0.25, "momentum": 0.75}):
    call = layer(arguments)
    trace = [np.asarray(a).tolist() for x in XS for a in call(x, True)]
    print(json.dumps([*trace, np.asarray(call(XS[-1], False)[0]).tolist()]))
"""


def settings_of_keras(home):
    """Its backend, which is one of those that are here."""
    found = [name for name in ("jax", "torch") if importlib.util.find_spec(name)]
    if not found:
        pytest.skip("Keras has no backend here")
    return {"KERAS_BACKEND": found[0], "KERAS_HOME": str(home)}


@pytest.mark.parametrize("system", SYSTEMS)
def test_keras_and_flax_themselves(system, tmp_path):
    if importlib.util.find_spec(system) is None:
        pytest.skip(f"no {system}")
    settings = settings_of_keras(tmp_path) if system == "keras" else {}
    arrays = [a.tolist() for a in (W, B, *batches())]
    printed = run_python(SCRIPT % (arrays, SYSTEMS[system]), JAX_ENABLE_X64="1", **settings)
    for line, arguments in zip(
        printed.splitlines()[-2:], ({}, {"eps": 0.25, "momentum": 0.75}), strict=True
    ):
        bn = BatchNorm(4, convention=system, dtype=np.float64, **arguments)
        trace = [np.array(a) for a in json.loads(line)]
        close(trace_of_layer(bn), trace, 1e-7, outputs=2e-5)


# --- ONNX: its reference, and its own tests ------------------------------------------------------


def onnx_trace(onnx, attributes):
    """From 0 and 1, which are inputs there."""
    from onnx.reference import ReferenceEvaluator

    def node(outputs, **more):
        names = ["x", "scale", "bias", "mean", "var"]
        made = onnx.helper.make_node("BatchNormalization", names, outputs, **attributes | more)
        kind = onnx.TensorProto.DOUBLE
        infos = [
            [onnx.helper.make_tensor_value_info(name, kind, None) for name in group]
            for group in (names, outputs)
        ]
        graph = onnx.helper.make_graph([made], "batch_norm", *infos)
        sets = [onnx.helper.make_opsetid("", 15)]
        evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=sets))
        return lambda *values: evaluator.run(None, dict(zip(names, values, strict=True)))

    train = node(["y", "new_mean", "new_var"], training_mode=1)
    trace, mean, var = [], np.zeros(4), np.ones(4)
    for x in batches():
        y, mean, var = train(x, W, B, mean, var)
        trace += [y, mean, var]
    return [*trace, node(["y"], training_mode=0)(x, W, B, mean, var)[0]]


@pytest.mark.parametrize(("eps", "momentum"), EXPLICIT[:2])
def test_the_reference_of_onnx(eps, momentum):
    onnx = pytest.importorskip("onnx")
    trace = onnx_trace(onnx, {"epsilon": eps, "momentum": momentum})
    close(trace_of_layer(BatchNorm(4, eps, momentum, convention="onnx", dtype=np.float64)), trace)


def test_the_defaults_of_onnx():
    """They are float32 there: 1e-5 and 0.9 are 3e-8 off."""
    trace = onnx_trace(pytest.importorskip("onnx"), {})
    close(trace_of_layer(BatchNorm(4, convention="onnx", dtype=np.float64)), trace, 3e-7)


ONNX_TESTS = [
    "test_batchnorm_example",
    "test_batchnorm_epsilon",
    "test_batchnorm_example_training_mode",
    "test_batchnorm_epsilon_training_mode",
]


@pytest.fixture(scope="module")
def onnx_cases():
    """The package's own tests of BatchNormalization."""
    node = pytest.importorskip("onnx.backend.test.case.node")
    with np.errstate(all="ignore"), warnings.catch_warnings():  # it makes those of every operator
        warnings.simplefilter("ignore", DeprecationWarning)  # some are older than NumPy 2.5
        return {case.name: case for case in node.collect_testcases("BatchNormalization")}


def test_onnx_has_no_further_tests(onnx_cases):
    assert sorted(onnx_cases) == sorted(ONNX_TESTS)


@pytest.mark.parametrize("name", ONNX_TESTS)
def test_onnx_node_tests(name, onnx_cases):
    onnx, case = pytest.importorskip("onnx"), onnx_cases[name]
    (node,) = case.model.graph.node
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    training = bool(given.pop("training_mode", 0))
    bn = BatchNorm(3, given.pop("epsilon", 1e-5), given.pop("momentum", 0.9), convention="onnx")
    assert not given
    for (x, *values), expected in case.data_sets:
        keys = ("weight", "bias", "running_mean", "running_var")
        bn.load_state_dict(dict(zip(keys, values, strict=True)))
        y = bn.train(training)(x)
        got = [y, bn.running_mean, bn.running_var] if training else [y]
        assert y.dtype == x.dtype == np.float32
        for mine, theirs in zip(got, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=2e-6)
