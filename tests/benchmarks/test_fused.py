"""The table of what fusing costs: every row is timed, and groups have their mean and worst."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import fused, measure
from benchmarks.cases import HALVES, LAYOUTS, Case, missing

SMALL = {"short runs": [(LAYOUTS[0], (4, 8, 3, 3))], "channels last": [(LAYOUTS[1], (4, 3, 6, 6))]}
ROWS = {
    "activation": (lambda: fused.activation(Case("test", (4, 8, 6, 6)), ["PyTorch"]), 4),
    "weights": (lambda: fused.weights(SMALL), 8),
    "halves": (lambda: fused.halves([1]), 8 * sum(not missing(dtype) for dtype in HALVES)),
}


@pytest.mark.parametrize("part", fused.PARTS)
def test_every_row_is_timed(part, monkeypatch, capsys):
    monkeypatch.setattr(measure, "TURN", 0)
    rows, count = ROWS[part]
    fused.report(rows(), 0)
    lines = capsys.readouterr().out.split("\n")
    assert sum(" us  " in line or line.endswith("noisy") for line in lines) == count


def test_groups_have_the_mean_and_the_largest_ratio(monkeypatch, capsys):
    found = iter([(1e-6, {"plain": 4.0}), None, (1e-6, {"plain": 1.0}), (1e-6, {"plain": 3.0})])
    monkeypatch.setattr(fused, "ratios", lambda calls, seconds: next(found))
    rows = []
    for k, group in enumerate(["mask", "mask", "mask", "reals"], 2):
        x = np.zeros((k, 1), np.float32)
        case = SimpleNamespace(shape=x.shape)
        data = SimpleNamespace(case=case, x=x, dtype=x.dtype, layout=LAYOUTS[0])
        rows.append((group, data, {}))
    fused.report(rows, 0)
    assert capsys.readouterr().out.split("\n")[4:6] == [
        "float32, mask: 2.00 of plain, at most 4.00: 2x1 float32 channels_first 0 KB",
        "float32, reals: 3.00 of plain, at most 3.00: 5x1 float32 channels_first 0 KB",
    ]


def test_the_first_call_is_the_one_in_question(monkeypatch):
    times = {"fastbn": measure.Times(3.0, 3.0), "plain": measure.Times(2.0, 9.0)}
    monkeypatch.setattr(fused, "in_turn", lambda calls, seconds: times)
    calls = dict.fromkeys(times, lambda: None)
    assert fused.ratios(calls, 0) == (3.0, {"plain": 1.5})
