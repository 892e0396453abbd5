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
