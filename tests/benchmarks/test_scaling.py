"""The comparison of scalers: it runs, and its errors are those that it is there to find."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from benchmarks import scaling


@pytest.mark.parametrize("nan", scaling.NAN)
@pytest.mark.parametrize("order", ["C", "F"])
def test_data_is_what_it_says(order, nan):
    x = scaling.data(2000, "float32", order, nan)
    assert x.dtype == np.float32
    assert x.flags[f"{order}_CONTIGUOUS"]
    assert np.isnan(x).any(axis=0).sum() == {"": 0, "NaN in 1 column": 1}.get(nan, 50)


def test_ratios_of_each_task(monkeypatch):
    monkeypatch.setattr(scaling, "quietly", lambda measure: measure())
    found = scaling.ratios(200, "float64", "C", "NaN in 1 column", seconds=0)
    assert list(found) == list(scaling.TASKS)
    assert all(ratio > 0 for ratio in found.values())
    monkeypatch.setattr(scaling, "quietly", lambda measure: None)
    assert np.isnan(list(scaling.ratios(200, "float64", "C", "", 0).values())).all()


def test_tables():
    pytest.importorskip("pandas")
    _, cells = scaling.speed(200, 0, ("float32",), "C", ("",))
    assert cells.shape == (1, len(scaling.TASKS))
    errors = scaling.errors(1e8, parts=500)
    assert errors["fastbn, 500 parts"] < 1e-15 < 1e-12 < errors["scikit-learn, 500 parts"]
    _, cells = scaling.accuracy((0,), 20)
    assert cells.shape == (1, 4)
