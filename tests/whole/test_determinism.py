"""The same bits at any number of threads, and from one call to the next."""

import numpy as np
import options
import pytest
from data import DTYPES, HALVES, LAYOUTS, problem
from shapes import TEAM

import fastbn
from fastbn._verify import sha256


def everything(case, dtype):
    """A digest of the statistics, outputs and gradients of one case, statistics batch and fixed."""
    shape, axis, memory = TEAM[case]
    x, dy, weight, bias = problem(shape, dtype, channel_axis=axis, offset=3.0)
    x, dy = LAYOUTS[memory](x), LAYOUTS[memory](dy)
    y, saved = fastbn.forward(x, weight, bias, channel_axis=axis)
    stats = fastbn.batch_stats(x, channel_axis=axis)
    np.testing.assert_array_equal(stats.mean, saved.stats.mean)
    np.testing.assert_array_equal(stats.m2, saved.stats.m2)
    fixed, kept = fastbn.forward(x, weight, bias, channel_axis=axis, stats=stats)
    z = x.copy(order="K")
    np.testing.assert_array_equal(
        fastbn.normalize(z, stats, weight, bias, channel_axis=axis, out=z), fixed
    )
    arrays = [stats.mean, stats.m2, y, *fastbn.backward(dy, saved)[:3]]
    return sha256([*arrays, fixed, *fastbn.backward(dy, kept)[:3]])


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", TEAM)
def test_same_bits_at_any_number_of_threads(case, dtype):
    digests = {}
    for threads in (1, 2, 3, 4, 8, 1):
        fastbn.set_num_threads(threads)
        digests[threads] = everything(case, dtype)
        assert digests[threads] == digests[1], f"{threads} threads"


OPTIONS = {
    "none": (None, "none", False),
    "mask": ("mask", "none", False),
    "weights": ("real", "none", False),
    "residual": (None, "none", True),
    "relu": (None, "relu", False),
    "leaky": (None, "leaky", True),
    "all": ("real", "leaky", True),
}
FEW = ["NCHW", "NCHW, short rows", "NHWC", "N D", "N D, few rows", "one channel, one row"]


def with_options(case, dtype, names):
    """A digest of what a batch gives with some options."""
    shape, axis, memory = TEAM[case]
    x, dy, weight, bias = problem(shape, np.float32, channel_axis=axis, offset=3.0)
    x, dy = (LAYOUTS[memory](a.astype(dtype)) for a in (x, dy))
    settings = options.settings(shape, *names, axis=axis, dtype=dtype)
    y, saved = fastbn.forward(x, weight, bias, **settings)
    arrays = [saved.stats.mean, saved.stats.m2, y]
    arrays += [grad for grad in fastbn.backward(dy, saved) if grad is not None]
    return sha256(arrays)


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES])
@pytest.mark.parametrize("names", OPTIONS)
@pytest.mark.parametrize("case", FEW)
def test_same_bits_with_options(case, names, dtype):
    digests = {}
    for threads in (1, 2, 3, 4, 1):
        fastbn.set_num_threads(threads)
        digests[threads] = with_options(case, dtype, OPTIONS[names])
        assert digests[threads] == digests[1], f"{threads} threads"


def test_digest_sees_one_bit():
    x = np.ones((3, 4))
    y = x.copy()
    y[1, 1] = np.nextafter(1, 2)
    assert sha256([x]) != sha256([y])
