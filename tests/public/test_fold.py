"""Folding: a layer without its batch norm gives what both gave."""

import math

import ml_dtypes
import numpy as np
import pytest
from data import normals

import fastbn
from fastbn import BatchNorm, fold_conv, fold_linear


def layer(features, *, affine=True, bias=True, seed=0, kind=BatchNorm, **arguments):
    """A layer that has seen data: each channel with its own parameters and statistics."""
    bn = kind(features, affine=affine, bias=bias, dtype=np.float64, **arguments)
    bn.running_mean[:] = normals(features, seed=seed, offset=1.0)
    bn.running_var[:] = np.square(normals(features, seed=seed + 1)) + 0.1
    if affine:
        bn.weight[:] = normals(features, seed=seed + 2, offset=1.0)
        if bias:
            bn.bias[:] = normals(features, seed=seed + 3)
    return bn.eval()


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


# --- a witness in NumPy: kernels of one dimension, no padding ------------------------------------


def convolution(x, w, b, *, groups=1):
    """x (N, Cin, L), w (Cout, Cin / groups, K)."""
    n, _, length = x.shape
    outputs, inputs, size = w.shape
    y = np.zeros((n, outputs, length - size + 1))
    for o in range(outputs):
        first = o // (outputs // groups) * inputs
        for k in range(size):
            part = x[:, first : first + inputs, k : k + y.shape[2]]
            y[:, o] += (part * w[o, :, k, None]).sum(1)
        y[:, o] += 0.0 if b is None else b[o]
    return y


def transposed_convolution(x, w, b, *, groups=1):
    """x (N, Cin, L), w (Cin, Cout / groups, K)."""
    n, inputs, length = x.shape
    _, columns, size = w.shape
    y = np.zeros((n, columns * groups, length + size - 1))
    for i in range(inputs):
        first = i // (inputs // groups) * columns
        for k in range(size):
            y[:, first : first + columns, k : k + length] += x[:, i, None] * w[i, :, k, None]
    return y if b is None else y + b[:, None]


BATCH_NORMS = {
    "affine": {},
    "weight": {"bias": False},
    "plain": {"affine": False},
    "no eps": {"eps": 0.0},
    "Keras's": {"convention": "keras"},
    "ghosts": {"virtual_batch_size": 2},
    "renorm": {"kind": fastbn.BatchRenorm},
    "one axis": {"channel_axis": (1,)},
}


@pytest.mark.parametrize("kind", BATCH_NORMS)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_after_a_convolution(groups, with_bias, kind):
    w, b = normals((8, 12 // groups, 3)), normals(8, seed=1) if with_bias else None
    bn, x = layer(8, **BATCH_NORMS[kind]), normals((5, 12, 9), seed=2)
    folded = fold_conv(w, b, bn, groups=groups)
    close(convolution(x, *folded, groups=groups), bn(convolution(x, w, b, groups=groups)))


@pytest.mark.parametrize("kind", BATCH_NORMS)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_before_a_convolution(groups, with_bias, kind):
    w, b = normals((8, 12 // groups, 3)), normals(8, seed=1) if with_bias else None
    bn, x = layer(12, **BATCH_NORMS[kind]), normals((5, 12, 9), seed=2)
    folded = fold_conv(w, b, bn, groups=groups, bn_first=True)
    close(convolution(x, *folded, groups=groups), convolution(bn(x), w, b, groups=groups))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_after_a_transposed_convolution(groups, with_bias):
    w, b = normals((12, 8 // groups, 3)), normals(8, seed=1) if with_bias else None
    bn, x = layer(8), normals((5, 12, 9), seed=2)
    folded = fold_conv(w, b, bn, transposed=True, groups=groups)
    plain = transposed_convolution(x, w, b, groups=groups)
    close(transposed_convolution(x, *folded, groups=groups), bn(plain))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("bn_first", [True, False])
def test_linear_layers(bn_first, with_bias):
    w, b = normals((4, 7)), normals(4, seed=1) if with_bias else np.zeros(4)
    bn, x = layer(7 if bn_first else 4), normals((20, 7), seed=2)
    weight, bias = fold_linear(w, b if with_bias else None, bn, bn_first=bn_first)
    expected = bn(x) @ w.T + b if bn_first else bn(x @ w.T + b)
    close(x @ weight.T + bias, expected)


def test_kernels_of_any_rank():
    """A kernel of one value, in three dimensions, is a linear layer at each position."""
    w, b, bn = normals((4, 7)), normals(4, seed=1), layer(7)
    expected = fold_linear(w, b, bn, bn_first=True)
    for rank in (1, 2, 3, 4):
        got = fold_conv(w.reshape(4, 7, *[1] * rank), b, bn, bn_first=True)
        assert got[0].shape == (4, 7, *[1] * rank)
        np.testing.assert_array_equal(got[0].reshape(4, 7), expected[0])
        np.testing.assert_array_equal(got[1], expected[1])


# --- PyTorch's layers ----------------------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "groups": {"groups": 2},
    "strided": {"stride": 2, "dilation": 2, "groups": 2},
    "no bias": {"bias": False},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("where", ["after", "before", "transposed"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pytorchs_convolutions(rank, where, options):
    torch = pytest.importorskip("torch")
    torch.manual_seed(rank)
    kind, before = "ConvTranspose" if where == "transposed" else "Conv", where == "before"
    given = dict(dtype=torch.float64, **OPTIONS[options])
    conv = getattr(torch.nn, f"{kind}{rank}d")(4, 6, 3, **given)
    other = getattr(torch.nn, f"{kind}{rank}d")(4, 6, 3, **given | {"bias": True})
    theirs = getattr(torch.nn, f"BatchNorm{rank}d")(4 if before else 6, dtype=torch.float64).eval()
    bn = layer(theirs.num_features)
    theirs.load_state_dict({key: torch.tensor(value) for key, value in bn.state_dict().items()})
    b = None if conv.bias is None else conv.bias.detach().numpy()
    w, b = fold_conv(
        conv.weight.detach().numpy(), b, bn,
        transposed=where == "transposed", groups=conv.groups, bn_first=before,
    )  # fmt: skip
    other.load_state_dict({"weight": torch.from_numpy(w), "bias": torch.from_numpy(b)})
    x = torch.randn(3, 4, *[8] * rank, dtype=torch.float64)
    with torch.no_grad():
        close(other(x).numpy(), (conv(theirs(x)) if before else theirs(conv(x))).numpy())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bn_first", [True, False])
def test_pytorchs_linear_layers(bn_first, bias):
    torch = pytest.importorskip("torch")
    linear = torch.nn.Linear(5, 3, bias=bias, dtype=torch.float64)
    bn, x = layer(5 if bn_first else 3), torch.randn(7, 5, dtype=torch.float64)
    w, b = (None if p is None else p.detach().numpy() for p in (linear.weight, linear.bias))
    w, b = fold_linear(w, b, bn, bn_first=bn_first)
    with torch.no_grad():
        first = torch.from_numpy(bn(x.numpy())) if bn_first else x
        expected = linear(first).numpy()
    close(x.numpy() @ w.T + b, expected if bn_first else bn(expected))


# --- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bn_first", [True, False])
def test_a_channel_without_deviation_gives_the_bias(bn_first):
    """As in evaluation: eps = 0 and a variance of 0."""
    bn = layer(4, eps=0.0)
    bn.running_var[1] = 0.0
    w, x = normals((4, 4)), normals((6, 4), seed=1)
    weight, bias = fold_linear(w, None, bn, bn_first=bn_first)
    assert np.all((weight[:, 1] if bn_first else weight[1]) == 0)
    close(x @ weight.T + bias, bn(x) @ w.T if bn_first else bn(x @ w.T))


def test_a_bias_that_lies_where_the_mean_does():
    """b - mean comes first: b and mean times the scale would be 6e12, whose last digit is 1e-3."""
    bn = layer(1, affine=False, eps=0.0)
    bn.running_mean[:], bn.running_var[:] = 1e8 + 0.25, 3e-10
    assert fold_linear([[1.0]], [1e8], bn)[1] == pytest.approx(-0.25 / math.sqrt(3e-10), rel=1e-15)


def test_long_sums_round_little():
    n = 100_001
    bn = layer(n, affine=False, eps=0.0)
    bn.running_mean[:], bn.running_var[:] = normals(n, offset=3.0), 1.0
    w = normals((2, n), seed=1, offset=0.1)
    exact = [-math.fsum(row * bn.running_mean) for row in w]
    np.testing.assert_allclose(fold_linear(w, None, bn, bn_first=True)[1], exact, rtol=2e-15)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.float16, np.float16),
        (ml_dtypes.bfloat16, ml_dtypes.bfloat16),
        (np.float32, np.float32),
        (np.float64, np.float64),
        (">f4", np.float32),
        (np.int8, np.float64),
        (bool, np.float64),
    ],
    ids=str,
)
def test_the_result_has_the_dtype_of_w(given, expected):
    w, bn = (2 * normals((6, 4, 3))).astype(given), layer(6)
    b = normals(6, np.float32, seed=1)
    for bias in (None, b):
        got = fold_conv(w, bias, bn)
        exact = fold_conv(w.astype(np.float64), bias, bn)
        for mine, truth in zip(got, exact, strict=True):
            assert mine.dtype == expected
            np.testing.assert_array_equal(mine, truth.astype(expected))  # rounded once


def test_arrays_are_new_and_inputs_are_left():
    bn = BatchNorm(4, eps=0.0, dtype=np.float64)  # the identity
    before = bn.state_dict()
    for w in (
        normals((4, 4, 3)),
        np.asfortranarray(normals((4, 4, 3))),
        normals((4, 4, 6))[..., ::2],
    ):
        for bn_first in (True, False):
            b = np.ones(4)
            for given in (w, b):
                given.setflags(write=False)
            new = fold_conv(w, b, bn, bn_first=bn_first)
            np.testing.assert_array_equal(new[0], w)
            np.testing.assert_array_equal(new[1], 1.0)
            for mine in new:
                assert mine.flags.owndata or mine.base.flags.owndata
                assert mine.flags.writeable
                assert not any(np.shares_memory(mine, a) for a in (w, b, bn.bias, bn.weight))
    for key, value in bn.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_a_layer_in_training_is_folded_as_it_evaluates():
    w, bn = normals((4, 4, 3)), layer(4)
    expected = fold_conv(w, None, bn)
    np.testing.assert_array_equal(fold_conv(w, None, bn.train())[0], expected[0])
    assert bn.training


def test_layers_of_a_kind_and_lists_will_do():
    bn = fastbn.BatchNorm1d(2, eps=0.0)
    w, b = fold_linear([[1, 2], [3, 4]], [5, 6], bn)
    assert w.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert b.tolist() == [5.0, 6.0]


# --- refusals ------------------------------------------------------------------------------------

W = normals((6, 4, 3))


def without(name):
    bn = layer(6)
    setattr(bn, name, None)
    return bn


def replaced(name, value):
    bn = layer(6)
    setattr(bn, name, value)
    return bn


NO_LAYER = {
    "None": (lambda: None, TypeError, r"bn should be a fastbn\.BatchNorm, got NoneType"),
    "state": (lambda: layer(6).state_dict(), TypeError, "bn should be .*, got dict"),
    "untracked": (
        lambda: BatchNorm(6, track_running_stats=False),
        ValueError,
        "bn should have running statistics, got track_running_stats=False",
    ),
    "lazy": (lambda: BatchNorm(None), ValueError, "bn should know .*, got num_features=None"),
    "mean": (lambda: without("running_mean"), ValueError, "bn .*running_mean=None"),
    "var": (lambda: without("running_var"), ValueError, "bn .*running_var=None"),
    "relu": (
        lambda: layer(6, activation="relu"),
        ValueError,
        "bn should have no activation, which is not linear, got 'relu'",
    ),
    "leaky": (lambda: layer(6, activation="leaky_relu"), ValueError, "bn .*'leaky_relu'"),
    "axes": (
        lambda: layer(6, channel_axis=(1, 2)),
        ValueError,
        r"bn should have one channel axis, got \(1, 2\)",
    ),
    "five": (
        lambda: layer(5),
        ValueError,
        r"bn should have 6 features, one for each output channel of w of shape .*, got 5",
    ),
    "weight": (
        lambda: replaced("weight", np.ones(5)),
        ValueError,
        r"bn\.weight should contain 6 elements not 5",
    ),
    "complex": (
        lambda: replaced("running_var", np.ones(6, complex)),
        TypeError,
        r"bn\.running_var .*complex128",
    ),
    "eps": (lambda: replaced("eps", -1.0), ValueError, r"bn\.eps should be at least 0, got -1"),
}


@pytest.mark.parametrize("bad", NO_LAYER)
def test_layers_that_are_refused(bad):
    made, kind, message = NO_LAYER[bad]
    with pytest.raises(kind, match=message):
        fold_conv(W, None, made())
    with pytest.raises(kind, match=message):
        fold_linear(W[..., 0], None, made())


REFUSED = {
    "channels before": ((W, None), {"bn_first": True}, "bn should have 4 features.*input.*got 6"),
    "channels of groups": (
        (W, None),
        {"bn_first": True, "groups": 2},
        "bn should have 8 features.*input.*got 6",
    ),
    "channels transposed": (
        (W, None),
        {"transposed": True},
        "bn should have 4 features.*output.*got 6",
    ),
    "groups": ((W, None), {"groups": 4}, r"groups should divide .*\(6, 4, 3\), got 4"),
    "no groups": ((W, None), {"groups": 0}, "groups should be at least 1, got 0"),
    "transposed before": (
        (W, None),
        {"transposed": True, "bn_first": True},
        "bn_first should be False for a transposed convolution, got True",
    ),
    "rank": ((W[..., 0], None), {}, r"w should have shape \(out, in / groups, \*kernel\), got"),
    "transposed rank": (
        (W[..., 0], None),
        {"transposed": True},
        r"w should have shape \(in, out / groups, \*kernel\), got",
    ),
    "empty": ((W[..., :0], None), {}, r"w should have no axis of length 0, got .*\(6, 4, 0\)"),
    "b": ((W, np.ones(4)), {}, "b should contain 6 elements not 4"),
    "b's rank": ((W, np.ones((6, 1))), {}, r"b should be 1-D with 6 elements, got shape \(6, 1\)"),
    "b, a number": ((W, 0.0), {}, r"b should be 1-D with 6 elements, got shape \(\)"),
}


@pytest.mark.parametrize("bad", REFUSED)
def test_arguments_that_are_refused(bad):
    arguments, options, message = REFUSED[bad]
    with pytest.raises(ValueError, match=message):
        fold_conv(*arguments, layer(6), **options)


@pytest.mark.parametrize("w", [W, W[0, 0]], ids=["three axes", "one"])
def test_linear_weights_have_two_axes(w):
    with pytest.raises(ValueError, match=r"w should have shape \(out, in\), got"):
        fold_linear(w, None, layer(6))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("w", (W.astype(complex), None)),
        ("w", (W.astype(object), None)),
        ("w", (np.ma.masked_array(W), None)),
        ("b", (W, np.ones(6, complex))),
        ("b", (W, "six")),
    ],
    ids=["complex", "object", "masked", "complex b", "text"],
)
def test_kinds_that_are_refused(name, arguments):
    with pytest.raises((TypeError, ValueError), match=rf"\b{name} should"):
        fold_conv(*arguments, layer(6))


def test_groups_are_a_number():
    with pytest.raises(TypeError, match="groups should be an integer, got float"):
        fold_conv(W, None, layer(6), groups=2.0)
