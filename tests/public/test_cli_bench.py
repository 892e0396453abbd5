"""`python -m fastbn bench`: every row, checked results, and reports that agree with each other."""

import json
import re
import sys
from itertools import product

import numpy as np
import pytest

import fastbn
from fastbn._bench import measure as clock
from fastbn._bench import timing
from fastbn._bench.libraries import installed
from fastbn._cli import main, times

SHORT = "--seconds", "0.01", "--threads", "1"
MOVED = {"forward": 2, "backward": 3, "evaluation": 2}
LIBRARIES = [name for name in ("fastbn", "NumPy", "PyTorch") if name in installed()]


@pytest.fixture(autouse=True)
def fast(keep_threads, monkeypatch):
    """One round of turns, whoever else is busy."""
    monkeypatch.setattr(timing, "quietly", None)
    monkeypatch.setattr(clock, "TURN", 1e-4)
    monkeypatch.setattr(clock, "QUIET", 1e9)


def bench(capsys, *arguments):
    """What is printed."""
    assert main(["bench", *SHORT, *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def floors(operation):
    return ["one pass", "two passes"][: 1 if operation == "evaluation" else 2]


def names(libraries=LIBRARIES):
    """(operation, library) of all rows."""
    return [
        (operation, library) for operation in MOVED for library in [*libraries, *floors(operation)]
    ]


def test_the_table(capsys):
    out = bench(capsys, "--shape", "64,9,9,16", "--channel-axis", "-1")
    assert "(64, 9, 9, 16) float32, 0.332 MB, channel axis -1" in out
    assert "threads: 1\n" in out
    form = r"^(\w+) +(\w+(?: passe?s?)?) +([\d.,]+) +([\d.,]+) +([\d.]+) +([\d.,]+) +([\d.,]+)$"
    rows = re.findall(form, out, re.M)
    assert [tuple(row[:2]) for row in rows] == names()
    least = {tuple(row[:2]): float(row[2].replace(",", "")) for row in rows}
    for operation, _, *figures in rows:
        first, middle, speed, own, floor = (float(figure.replace(",", "")) for figure in figures)
        assert first <= middle
        moved = MOVED[operation] * 4 * 64 * 9 * 9 * 16
        assert speed == pytest.approx(moved / first / 1e3, abs=0.06, rel=0.02)
        assert own == pytest.approx(first / least[operation, "fastbn"], abs=0.01, rel=0.02)
        assert floor == pytest.approx(first / least[operation, "one pass"], abs=0.01, rel=0.02)


def test_the_file_for_machines_and_the_table_agree(capsys, tmp_path):
    file = tmp_path / "x.json"
    out = bench(capsys, "--shape", "16,3,5,5", "--json", str(file))
    found = json.loads(file.read_text())
    assert found["shape"] == [16, 3, 5, 5]
    assert found["machine"]["threads"] == 1
    assert found["machine"]["cpu"] == fastbn.config_info()["cpu"]
    assert [(row["operation"], row["library"]) for row in found["times"]] == names()
    for row in found["times"]:
        assert f"{row['operation']:12}{row['library']:12}{1e6 * row['least']:12,.1f}" in out


def test_without_a_file_there_is_nothing_but_figures(capsys):
    found = json.loads(bench(capsys, "--shape", "16,3,5,5", "--json"))
    assert list(found) == ["shape", "dtype", "channel_axis", "machine", "notes", "times"]


@pytest.mark.parametrize(("name", "first"), [("x.png", b"\x89PNG"), ("x.SVG", b"<?xml")])
def test_a_picture_is_drawn(name, first, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / name
    file.write_bytes(b"the one before")
    bench(capsys, "--shape", "16,3,5,5", "--plot", str(file))
    content = file.read_bytes()
    assert content.startswith(first)
    if first == b"<?xml":
        for text in (b"(16, 3, 5, 5) float32", b"backward", b"fastbn"):
            assert b"<!-- " + text in content


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_of_16_bits_numpy_is_left_out(dtype, capsys):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    out = bench(capsys, "--shape", "8,3,5,5", "--dtype", dtype)
    assert out.startswith(f"(8, 3, 5, 5) {dtype}, 0.0012 MB, channel axis 1\n")
    assert "NumPy is left out: it would round the statistics to 16 bits." in out
    rows = [line.split()[1] for line in out.splitlines() if line.startswith("forward ")]
    assert rows == [name for name in LIBRARIES if name != "NumPy"] + ["one", "two"]


def test_without_pytorch_a_note_says_so(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = json.loads(bench(capsys, "--shape", "8,3,5,5", "--json"))
    assert {row["library"] for row in found["times"]}.isdisjoint({"PyTorch"})
    assert found["notes"] == ["PyTorch is left out: it is not installed."]
    assert "torch" not in found["machine"]


def test_a_busy_machine_is_told_of(capsys, monkeypatch):
    monkeypatch.setattr(clock, "QUIET", -1)
    monkeypatch.setattr(clock, "busy", lambda: (0.0, 0.0, 0.0))
    assert clock.quietly(lambda: 1) == 1
    readings = iter(range(1000))
    monkeypatch.setattr(clock, "busy", lambda: (k := next(readings), 0.0, float(k)))
    out = bench(capsys, "--shape", "8,3,5,5")
    assert out.count("The machine was busy with other processes") == 1


def test_a_wrong_result_is_not_timed(capsys, monkeypatch):
    right = fastbn.backward

    def wrong(*arguments, **options):
        dx, *rest = right(*arguments, **options)
        return dx * 1.001, *rest

    monkeypatch.setattr(fastbn, "backward", wrong)
    assert main(["bench", "--shape", "8,3,5,5", *SHORT]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert "nothing is timed, for a result is wrong: backward of bench-8x3x5x5" in line


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MemoryError(), 2, "argument --shape: no memory for (8, 3, 5, 5); see --help"),
        (AssertionError("dx"), 1, "nothing is timed, for a result is wrong: dx"),
    ],
)
def test_what_a_call_meets_is_one_line(error, code, words, capsys, monkeypatch):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(timing, "turns", fail)
    try:
        found = main(["bench", "--shape", "8,3,5,5", *SHORT])
    except SystemExit as stop:
        found = stop.code
    assert found == code
    assert capsys.readouterr().err == f"python -m fastbn bench: {words}\n"


SHAPES = (6, 4), (6, 4, 5), (6, 4, 5, 3)


@pytest.mark.parametrize(
    ("shape", "axis"), [(s, axis) for s in SHAPES for axis in range(-len(s), len(s))]
)
def test_channels_on_any_axis(shape, axis):
    """The data's memory is that of an array of this shape: its channels lie where they are."""
    x = times.Problem(shape, "float64", axis).data().x
    base = x if x.base is None else x.base
    memory = base.reshape(-1) if base.flags.c_contiguous else np.ravel(x, "K")
    whole = memory.reshape(shape)
    assert x.shape[1] == shape[axis]
    expected, found = fastbn.batch_stats(whole, channel_axis=axis), fastbn.batch_stats(x)
    np.testing.assert_array_equal(expected.mean, found.mean)
    np.testing.assert_array_equal(expected.var(), found.var())


def test_every_shape_of_a_few_values_passes_the_check(monkeypatch):
    """Whose gradients nearly vanish. Of two values a channel, they do: these are refused."""
    monkeypatch.setattr(times, "_timed", lambda calls, *how: (_once(calls), True))
    for n, c, dtype in product((times.LEAST, 4, 5), (1, 3, 5), ("float32", "float64")):
        times.measure(times.Problem((n, c), dtype, 1), 0.01, 1, 1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("shape", "axis"), [((5, 7), 1), ((5, 3, 3), -1)])
def test_an_odd_number_of_16_bit_values(shape, axis, dtype, monkeypatch):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    monkeypatch.setattr(times, "_timed", lambda calls, *how: (_once(calls), True))
    report = times.measure(times.Problem(shape, dtype, axis), 0.01, 1, 1)
    assert {row.library for row in report.rows} >= {"fastbn", "one pass", "two passes"}


def _once(calls):
    return dict.fromkeys(calls, clock.Times(1.0, 1.0))
