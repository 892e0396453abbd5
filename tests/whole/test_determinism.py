"""The same bits at any number of threads, and from one call to the next."""

import hashlib

import numpy as np
import pytest
from data import DTYPES, LAYOUTS, problem

import fastbn

# name: shape, channel axis, memory of x. 65,536 values are about where calls begin to run parallel.
CASES = {
    "NCHW": ((16, 24, 28, 28), 1, "contiguous"),
    "NCHW, 3 channels": ((8, 3, 120, 121), 1, "contiguous"),
    "NCHW, short rows": ((32, 100, 7, 7), 1, "contiguous"),
    "NCHW, rows of 14 x 14": ((16, 40, 14, 14), 1, "contiguous"),
    "one channel, one row": ((1, 1, 300_001), 1, "contiguous"),
    "NHWC": ((16, 28, 28, 24), -1, "contiguous"),
    "NHWC as a view": ((16, 24, 28, 28), 1, "channels_last"),
    "N D": ((5003, 64), 1, "contiguous"),
    "N D, few rows": ((40, 5001), 1, "contiguous"),
    "N D, one column": ((200_003, 1), 1, "contiguous"),
    "strided": ((16, 24, 28, 28), 1, "strided"),
    "5-D": ((3, 11, 16, 17, 18), 1, "contiguous"),
    "just below": ((16, 64, 8, 8), 1, "contiguous"),
    "just above": ((16, 65, 8, 8), 1, "contiguous"),
    "N D, just below": ((1024, 64), 1, "contiguous"),
    "N D, just above": ((1025, 64), 1, "contiguous"),
    "small": ((4, 3, 5, 6), 1, "contiguous"),
}


def digest(arrays):
    sha = hashlib.sha256()
    for a in arrays:
        sha.update(np.ascontiguousarray(a).tobytes())
    return sha.hexdigest()


def everything(case, dtype):
    """A digest of the statistics, outputs and gradients of one case, statistics batch and fixed."""
    shape, axis, memory = CASES[case]
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
    return digest([*arrays, fixed, *fastbn.backward(dy, kept)[:3]])


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_same_bits_at_any_number_of_threads(case, dtype):
    digests = {}
    for threads in (1, 2, 3, 4, 8, 1):
        fastbn.set_num_threads(threads)
        digests[threads] = everything(case, dtype)
        assert digests[threads] == digests[1], f"{threads} threads"


def test_digest_sees_one_bit():
    x = np.ones((3, 4))
    y = x.copy()
    y[1, 1] = np.nextafter(1, 2)
    assert digest([x]) != digest([y])
