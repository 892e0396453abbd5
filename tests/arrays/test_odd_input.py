"""What looks odd and is legal: right to the oracle's last digits, and left as it was."""

from fractions import Fraction

import numpy as np
import pytest
from agreement import Oracle
from data import DTYPES, LAYOUTS, channels_last, normals, problem

import fastbn

BASE = normals((6, 3, 5), seed=3, offset=2.0, scale=20.0)


class WithInterface:
    """Not an array, but it offers itself as one."""

    def __init__(self, a):
        self.a = a

    def __array__(self, dtype=None, copy=None):
        return self.a.copy() if copy else self.a


def broadcast(shape, axis):
    one = [length if i == axis else 1 for i, length in enumerate(shape)]
    line = np.linspace(-3, 3, shape[axis]).reshape(one)
    return np.broadcast_to(line, shape)


def memory_map(a, path):
    a = a.copy()
    a.tofile(path)
    return np.memmap(path, a.dtype, "r", shape=a.shape)


# name: (x, channel axis)
ODD = {
    "list": (BASE.tolist(), 1),
    "tuples": (tuple(map(tuple, BASE[:, :, 0])), 1),
    "list of arrays": (list(BASE), 1),
    "list of integers": ([[1, 5], [2, 7], [4, -1]], 1),
    "list of booleans": ([[True, False], [False, False], [True, True]], 1),
    "an object with __array__": (WithInterface(BASE), 1),
    "NumPy's axis": (BASE, np.int8(-2)),
    "booleans": (BASE > 0, 1),
    "float16": (BASE.astype(np.float16), 1),
    "big unsigned": (np.array([[2**63, 1], [2**64 - 1, 2], [0, 3]], np.uint64), 1),
    **{
        f"{kind}": (np.abs(BASE).astype(kind) if kind[0] == "u" else BASE.astype(kind), 1)
        for kind in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    },
    **{f"integers, {name}": (make(BASE.astype(np.int32)), 1) for name, make in LAYOUTS.items()},
    **{f"float16, {name}": (make(BASE.astype(np.float16)), 1) for name, make in LAYOUTS.items()},
    **{f"float32, {name}": (make(BASE.astype(np.float32)), 1) for name, make in LAYOUTS.items()},
    **{f"float64, {name}": (make(BASE), 1) for name, make in LAYOUTS.items()},
    "big-endian, strided": (LAYOUTS["strided"](BASE.astype(">f4")), 1),
    "big-endian, misaligned": (LAYOUTS["misaligned"](BASE.astype(">f8")), -1),
    "big-endian, read-only": (LAYOUTS["readonly"](channels_last(BASE.astype(">f8"))), 1),
    "read-only, reversed": (LAYOUTS["reversed"](LAYOUTS["readonly"](BASE)), 2),
    "reversed in part": (BASE[:, ::-1], 1),
    "every other sample": (BASE[1::2], 1),
    "diagonals": (np.lib.stride_tricks.as_strided(BASE, (2, 3, 5), (128, 40, 8)), 1),
    "broadcast samples": (np.broadcast_to(BASE[0], BASE.shape), 1),
    "broadcast channels": (np.broadcast_to(BASE[:, :1], BASE.shape), 1),
    "broadcast along the channels": (broadcast((4, 3, 5), 1), 1),
    "one value everywhere": (np.broadcast_to(np.float32(3), (4, 3, 5)), 1),
    "one channel": (BASE[:, :1], 1),
    "one channel, last": (BASE[:, :, :1], -1),
    "one sample": (BASE[:1], 1),
    "axes of one entry": (BASE[:, :, :1][:, None, :, None], 2),
    "channels first of all": (BASE, 0),
    "eight axes": (BASE.reshape(1, 2, 3, 1, 3, 1, 5, 1), 4),
}


def values(x):
    return np.asarray(x.a if isinstance(x, WithInterface) else x)


def check(x, axis, **settings):
    a = values(x)
    before = a.copy()
    c = a.shape[axis]
    weight, bias = np.linspace(0.5, 2, c), np.linspace(-1, 1, c)
    output = a.dtype.newbyteorder("=") if a.dtype.kind == "f" else np.dtype(np.float64)
    dy = LAYOUTS["readonly"](normals(a.shape, output, seed=7))
    oracle = Oracle(a, weight, bias, axis=axis)
    y, saved = fastbn.forward(x, weight, bias, channel_axis=axis)
    assert y.dtype == output
    assert y.dtype.isnative
    oracle.check_output(y)
    oracle.check_stats(saved.stats)
    oracle.check_stats(fastbn.batch_stats(x, channel_axis=axis))
    oracle.check_grads(dy, fastbn.backward(dy, saved))
    swapped = dy.astype(dy.dtype.newbyteorder())
    oracle.check_grads(dy, fastbn.backward(swapped, saved))
    oracle.check_output(fastbn.normalize(x, saved.stats, weight, bias, channel_axis=axis))
    bn = fastbn.BatchNorm(c, channel_axis=axis)
    bn.weight[:], bn.bias[:] = weight, bias
    Oracle(a, bn.weight, bn.bias, axis=axis).check_output(bn(x))
    np.testing.assert_array_equal(a, before)


@pytest.mark.parametrize("name", ODD)
def test_odd(name):
    check(*ODD[name])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4", np.int16])
def test_memory_map(tmp_path, dtype):
    check(memory_map(BASE.astype(dtype), tmp_path / "x"), 1)


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 5), (4, 3, 0), (4, 0), (4, 0, 5), (0, 0)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f8", int, bool])
def test_empty(shape, dtype):
    x, c = np.zeros(shape, dtype), shape[1]
    output = x.dtype.newbyteorder("=") if x.dtype.kind == "f" else np.dtype(np.float64)
    mean, var = np.full(c, 2.0), np.full(c, 3.0)
    y, saved = fastbn.forward(x)
    for result in (
        y,
        fastbn.batch_norm(x, mean, var, training=True),
        fastbn.batch_norm(x, mean, var),
        fastbn.normalize(x, saved.stats),
        fastbn.backward(y, saved).dx,
    ):
        assert result.shape == shape
        assert result.dtype == output
    assert (mean == 2).all()
    assert (var == 3).all()
    assert fastbn.batch_stats(x).count == np.prod(shape, dtype=int) // max(c, 1)
    assert not fastbn.backward(y, saved).dweight.any()


ODD_VECTORS = {
    "list": [0.5, 1.5, -2.0],
    "tuple": (1, 0, -1),
    "integers": np.array([1, 2, 3], np.uint8),
    "booleans": [True, False, True],
    "float16": np.array([0.5, 1.5, 2], np.float16),
    "big-endian": np.array([0.5, 1.5, 2], ">f8"),
    "reversed": np.array([0.5, 1.5, 2.0])[::-1],
    "strided": np.arange(6.0)[::2],
    "broadcast": np.broadcast_to(2.0, 3),
    "misaligned": LAYOUTS["misaligned"](np.array([0.5, 1.5, 2.0])),
    "long double": np.array([0.5, 1.5, 2], np.longdouble),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ODD_VECTORS)
def test_odd_parameters_and_statistics(name, dtype):
    vector, (x, dy, _, _) = ODD_VECTORS[name], problem((6, 3, 5), dtype)
    before = np.array(vector)
    oracle = Oracle(x, vector, vector)
    y, saved = fastbn.forward(x, vector, vector)
    oracle.check_output(y)
    oracle.check_grads(dy, fastbn.backward(dy, saved))
    var = np.square(np.asarray(vector, np.float64))
    fixed = Oracle(x, eps=0.5, stats=(np.asarray(vector, np.float64), var))
    fixed.check_output(fastbn.normalize(x, (vector, var.tolist()), eps=0.5))
    fixed.check_output(fastbn.batch_norm(x, vector, var, eps=0.5))
    np.testing.assert_array_equal(vector, before)


@pytest.mark.parametrize(
    "eps", [0, 1, True, np.float16(0.5), np.int8(2), Fraction(1, 3), np.array(0.25), np.inf]
)
def test_odd_numbers(eps):
    x, dy, weight, bias = problem((6, 3, 5))
    oracle = Oracle(x, weight, bias, eps=float(eps))
    y, saved = fastbn.forward(x, weight, bias, eps=eps)
    oracle.check_output(y)
    oracle.check_grads(dy, fastbn.backward(dy, saved))
    oracle.check_output(fastbn.batch_norm(x, None, None, weight, bias, True, 1, eps))


@pytest.mark.parametrize(
    "make",
    [make for name, make in LAYOUTS.items() if name != "readonly"]
    + [lambda a: a.astype(np.longdouble)],
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_running_arrays_of_any_kind(dtype, make):
    x = normals((6, 3, 5), seed=1, offset=2.0)
    mean, var = make(np.zeros((1, 3), dtype))[0], make(np.ones((1, 3), dtype))[0]
    fastbn.batch_norm(x, mean, var, training=True, momentum=0.25)
    unit = np.finfo(dtype).eps
    np.testing.assert_allclose(mean, 0.25 * x.mean(axis=(0, 2)), rtol=2 * unit)
    expected = 0.75 + 0.25 * x.var(axis=(0, 2), ddof=1)
    np.testing.assert_allclose(var, expected, rtol=2 * unit)
