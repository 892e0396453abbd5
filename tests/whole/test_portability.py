"""The core on small arrays: quick enough for Python without a compiler, see `.ci/portability`.

One shape for each way of walking memory, serial and by a team. Bounds are checked where the process
says so (an index beyond the end is an unraisable exception, which pytest turns into a failure), and
the results everywhere.
"""

import numba
import numpy as np
import options
import pytest
from agreement import Oracle, assert_agreement
from data import DTYPES, HALVES, LAYOUTS, problem
from shapes import TINY

import fastbn


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TINY)
def test_core(name, dtype):
    shape, axis, _ = TINY[name]
    x, dy, weight, bias = problem(shape, dtype, channel_axis=axis, offset=2.0)
    oracle = Oracle(x, weight, bias, axis=axis)
    y, saved = fastbn.forward(x, weight, bias, channel_axis=axis)
    oracle.check_output(y)
    oracle.check_stats(saved.stats)
    oracle.check_grads(dy, fastbn.backward(dy, saved))
    mean, var = np.zeros(shape[axis]), np.ones(shape[axis])
    fastbn.batch_norm(x, mean, var, training=True, momentum=1.0, channel_axis=axis)
    np.testing.assert_allclose(mean, oracle.mean, rtol=1e-5)
    stats = fastbn.batch_stats(x, channel_axis=axis)
    oracle.check_output(fastbn.normalize(x, stats, weight, bias, channel_axis=axis))


@pytest.mark.parametrize("dtype", ["f2", "i4", "?"])
@pytest.mark.parametrize("memory", ["strided", "byteswapped", "misaligned", "channels_last"])
def test_any_array(memory, dtype):
    x = LAYOUTS[memory]((4 * problem((4, 3, 5))[0]).astype(dtype))
    y, saved = fastbn.forward(x)
    Oracle(x).check_output(y)
    Oracle(x).check_stats(saved.stats)


@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("name", TINY)
def test_options(name, dtype):
    shape, axis, _ = TINY[name]
    x, dy, weight, bias = problem(shape, dtype, channel_axis=axis, offset=2.0)
    settings = options.settings(shape, "real", "leaky", True, axis=axis, dtype=dtype)
    assert_agreement(x, dy, weight, bias, **settings)


def test_layer():
    x, dy, _, _ = problem((6, 3, 5))
    bn = fastbn.BatchNorm2d(3, dtype=np.float64)
    Oracle(x[..., None]).check_output(bn(x[..., None]))
    np.testing.assert_allclose(bn.running_mean, 0.1 * x.mean(axis=(0, 2)), rtol=1e-12)
    bn.backward(dy[..., None])
    np.testing.assert_allclose(bn.bias_grad, dy.sum(axis=(0, 2)), rtol=1e-10)


def test_seed_interface():
    x, dy, gamma, beta = problem((6, 4))
    out, cache = fastbn.batchnorm_forward(x, gamma, beta, {"mode": "train"})
    Oracle(x, gamma, beta).check_output(out)
    assert fastbn.batchnorm_backward(dy, cache)[2] == pytest.approx(dy.sum(axis=0))


def test_nan_and_infinity_stay_in_their_channel():
    x = problem((6, 4))[0]
    x[2, 0], x[3, 2] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        y, saved = fastbn.forward(x)
    assert np.isfinite(y).all(axis=0).tolist() == [False, True, False, True]
    Oracle(x, skip=[0, 2]).check_output(y)
    Oracle(x, skip=[0, 2]).check_stats(saved.stats)


def test_a_team():
    if numba.config.DISABLE_JIT:
        pytest.skip("90,000 values are too many without a compiler")
    x, dy, weight, bias = problem((2, 2, 150, 150))
    oracle = Oracle(x, weight, bias)
    y, saved = fastbn.forward(x, weight, bias)
    oracle.check_output(y)
    oracle.check_grads(dy, fastbn.backward(dy, saved))
