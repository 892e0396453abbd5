"""The table of what compositions cost: every row is timed."""

from benchmarks import algebra, measure


def test_every_row_is_timed(monkeypatch, capsys):
    monkeypatch.setattr(measure, "TURN", 0)
    rows = algebra.rows([(4, 3, 6, 6)], [(12, 3, 6, 6)])
    algebra.report(rows, 0)
    lines = capsys.readouterr().out.split("\n")
    assert sum(" us  " in line or line.endswith("noisy") for line in lines) == 4 + 2 * 2
