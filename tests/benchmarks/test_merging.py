"""The errors of merged statistics: fastbn's are small, and the usual formula's are found."""

import numpy as np
import pytest

from benchmarks import merging


@pytest.mark.parametrize("way", merging.WAYS)
def test_errors_of_a_few_parts(way):
    x = 1e8 + np.random.default_rng(0).standard_normal((2000, 1))
    mean, var = merging.errors(merging.WAYS[way], x, 100)
    assert mean <= 1 if way in ("merge_stats", "+") else mean < 100
    assert (var <= 1e-15) == (way in ("merge_stats", "+"))


def test_table_has_a_row_for_each_cut():
    pytest.importorskip("pandas")
    _, cells = merging.table((0,), ((2, 3), (3, 1)))
    assert list(cells.index) == ["0, 2 of 3", "0, 3 of 1"]
    assert len(cells.columns) == 2 * len(merging.WAYS)


def test_workers_of_unequal_shares():
    pytest.importorskip("pandas")
    counts = merging.shares(200)
    assert counts.min() == 0
    assert counts.max() > 1000
    _, cells = merging.tree_table((1e8,), workers=200)
    (row,) = cells.to_numpy()
    ulps, relative = np.split(row.astype(float), 2)
    assert (ulps[:-1] <= 0.5).all()
    assert (relative[:-1] < 1e-15).all()
    assert relative[-1] > 1e-12  # Chan's formula as it is usually computed


def test_times_of_merging():
    assert list(merging.merge_times(channels=3, seconds=0)) == [2, merging.FAN, merging.WORKERS]
