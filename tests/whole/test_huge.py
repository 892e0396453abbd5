"""More than 2^31 values, where an index of 32 bits would wrap: only with FASTBN_TEST_HUGE=1."""

import os
from pathlib import Path

import numpy as np
import pytest
from data import exact

import fastbn

PERIOD = 2018  # not a power of two: a wrapped index finds other values
REPEATS = {
    "columns": ((PERIOD, 64), 0, 2**31 // (PERIOD * 64) + 1),
    "rows": ((2, 3, PERIOD), 2, 2**31 // (6 * PERIOD) + 1),
}


def available():
    """Bytes of memory that are free; 0 where the system does not say."""
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


def need(gigabytes):
    if os.environ.get("FASTBN_TEST_HUGE") != "1":
        pytest.skip("takes long; set FASTBN_TEST_HUGE=1")
    if available() < gigabytes * 1e9:
        pytest.skip(f"needs {gigabytes} GB of free memory")


def repeated(case):
    """x, its blocks in turn, the normalised block, mean and variance: all exact."""
    shape, axis, repeats = REPEATS[case]
    block, mean, std = exact(shape, np.float32, seed=7)
    whole = list(shape)
    whole[axis] *= repeats
    x = np.empty(whole, np.float32)
    blocks = np.moveaxis(x.reshape(*shape[:axis], repeats, *shape[axis:]), axis, 0)
    blocks[...] = block
    sides = [1, -1] + [1] * (len(shape) - 2)
    return x, blocks, (block - mean.reshape(sides)) / std.reshape(sides), mean, std**2


def assert_blocks(blocks, expected):
    wrong = [k for k, block in enumerate(blocks) if not np.array_equal(block, expected)]
    assert not wrong


@pytest.mark.parametrize("case", REPEATS)
def test_statistics_and_output_in_place(case):
    need(12)
    x, blocks, xhat, mean, var = repeated(case)
    stats = fastbn.batch_stats(x)
    assert stats.count == x.size / x.shape[1]
    assert x.size > 2**31
    np.testing.assert_allclose(stats.mean, mean, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(stats.var(), var, rtol=1e-14)
    assert fastbn.batch_norm(x, mean, var, eps=0.0, out=x) is x
    assert_blocks(blocks, xhat)


@pytest.mark.parametrize("case", REPEATS)
def test_forward_and_backward(case):
    """dy = xhat lies in the space that batch norm removes: its gradient is zero."""
    need(20)
    x, blocks, xhat, _, _ = repeated(case)
    y, saved = fastbn.forward(x, eps=0.0)
    shape, axis, repeats = REPEATS[case]
    blocks = np.moveaxis(y.reshape(*shape[:axis], repeats, *shape[axis:]), axis, 0)
    assert_blocks(blocks, xhat)
    dx, dweight, dbias = fastbn.backward(y, saved, out=y)[:3]
    assert dx is y
    np.testing.assert_array_equal(dweight, np.float32(saved.stats.count))
    np.testing.assert_array_equal(dbias, 0)
    assert_blocks(blocks, np.zeros_like(xhat))
