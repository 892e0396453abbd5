"""Reports of a comparison: the tables hide nothing, and a file keeps everything."""

from math import nan

import pytest

from benchmarks import picture, report
from benchmarks.cases import CASES

pd = pytest.importorskip("pandas", minversion="2.2")

RUN = [(10, 40, 5), (20, 10, 5), None]


def times(*cases, operation="forward", names=tuple(CASES)):
    """A frame of minima of fastbn, PyTorch and the floor by case; medians are twice as long."""
    job = {"operation": operation, "given": False, "layout": "channels_first", "dtype": "float32"}
    records = []
    for name, micros in zip(names, cases, strict=False):
        found = zip(("fastbn", "PyTorch", "one pass"), micros or [nan], strict=False)
        records += [
            job | {"case": name, "library": library, "least": 1e-6 * t, "median": 2e-6 * t}
            for library, t in found
            if t is not None
        ]
    return report.frame(records)


def test_losses_are_reported_like_wins():
    (_, least), (title, table) = report.tables(times(*RUN))
    assert title == "forward, channels_first, float32, median microseconds"
    assert list(table.columns) == ["fastbn", "PyTorch", "to PyTorch", "of one pass"]
    assert list(table.iloc[0]) == ["20.0", "80.0", "4.00x", "2.00x"]
    assert list(table.iloc[1]) == ["40.0", "20.0", "0.50x", "4.00x"]
    assert list(table.iloc[2]) == ["noisy"] * 4
    assert list(table.loc["resnet50: geometric mean"]) == ["", "", "1.41x", "2.83x"]
    assert list(table.loc["all: worst"]) == ["", "", "0.50x", "4.00x"]
    assert list(least.iloc[0]) == ["10.0", "40.0", "4.00x", "2.00x"]


def test_families_have_means_of_their_own():
    names = "resnet50-32x64x56x56", "input-64x3x224x224", "audio-32x128x1000"
    _, table = report.tables(times((10, 20, 5), (10, 10, 5), (10, 40, 5), names=names))[0]
    means = table["to PyTorch"].filter(like="mean")
    assert dict(means.items()) == {
        "resnet50: geometric mean": "2.00x",
        "networks: geometric mean": "2.00x",
        "all: geometric mean": "2.00x",
    }
    assert table.loc["networks: worst", "to PyTorch"] == "1.00x"


def test_a_library_that_fails_leaves_a_gap():
    table = report.tables(times((10, 40, 5), (20, None, 5)))[0][1]
    assert [list(row[1:3]) for row in table.to_numpy()[:2]] == [["40.0", "4.00x"], ["-", "-"]]
    assert list(table.loc["all: geometric mean"])[2:] == ["4.00x", "2.83x"]


def test_nothing_but_noise():
    found = report.tables(times(None, None), medians="summary")
    assert [list(table["fastbn"]) for _, table in found] == [["noisy", "noisy"]]
    ((_, table),) = report.overview(times(None))
    assert table.loc["forward, channels_first", "cases"] == "0, 1 noisy"


def test_a_single_case():
    (_, table), _ = report.tables(times((10, 40, 5)))
    assert list(table["to PyTorch"]) == ["4.00x"] * 5


def test_the_overview_tells_dtypes_apart():
    halves = times((10, 20, 5)).assign(dtype="float16")
    found = pd.concat([times((10, 40, 5)), halves], ignore_index=True)
    ((title, table),) = report.overview(found)
    assert title.startswith("times as long as fastbn takes, float32, float16:")
    assert dict(table["to PyTorch"]) == {
        "forward, channels_first, float32": "4.00x",
        "forward, channels_first, float16": "2.00x",
    }


def test_the_overview_names_the_worst_case():
    ((title, table),) = report.overview(
        pd.concat(
            [
                times(*RUN),
                times((10, 30, 5), names=["rows-64x100"]),
                times((10, 20, 5), (10, None, 5), operation="backward"),
            ],
            ignore_index=True,
        )
    )
    assert title == "times as long as fastbn takes, float32: geometric mean, and worst case"
    assert report.markdown("", table).split("\n") == [
        "| operation, data | cases | to PyTorch | worst to PyTorch |",
        "| --- | ---: | ---: | ---: |",
        "| forward, channels_first | 2, 1 noisy | 1.41x | 0.50x resnet50-32x64x56x56 |",
        "| forward, rows | 1 | 3.00x | 3.00x rows-64x100 |",
        "| backward, channels_first | 2 | 2.00x | 2.00x resnet50-32x64x112x112 |",
    ]


def test_markdown_has_the_medians_in_short():
    (title, least), (none, medians) = report.tables(times(*RUN), medians="summary")
    assert report.markdown(title, least).split("\n")[:5] == [
        "**forward, channels_first, float32, least microseconds**",
        "",
        "| case | fastbn | PyTorch | to PyTorch | of one pass |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| resnet50-32x64x112x112 | 10.0 | 40.0 | 4.00x | 2.00x |",
    ]
    assert report.markdown(none, medians).split("\n") == [
        "| medians | to PyTorch | of one pass |",
        "| --- | ---: | ---: |",
        "| resnet50: geometric mean | 1.41x | 2.83x |",
        "| resnet50: worst | 0.50x | 4.00x |",
        "| all: geometric mean | 1.41x | 2.83x |",
        "| all: worst | 0.50x | 4.00x |",
    ]


def test_results_survive_a_file(tmp_path):
    found = times(*RUN)
    report.save(tmp_path / "run.json", found, "caption")
    loaded, caption = report.load(tmp_path / "run.json")
    pd.testing.assert_frame_equal(loaded, found, check_exact=True)
    assert caption == "caption"


@pytest.mark.parametrize(
    ("value", "text"),
    [(nan, "-"), (0.05, "0.05"), (1, "1.00"), (9.876, "9.88"), (12.34, "12.3"), (1234.5, "1,234")],
)
def test_three_digits(value, text):
    assert report.significant(value) == text


def test_only_what_is_between_the_marks_is_replaced(tmp_path):
    file = tmp_path / "README.md"
    file.write_text("a\n<!-- compare -->\nold\n<!-- /compare -->\nb\n")
    report.replace(file, "compare", "new\ntable")
    assert file.read_text() == "a\n<!-- compare -->\nnew\ntable\n<!-- /compare -->\nb\n"
    with pytest.raises(ValueError, match="should have the lines <!-- other -->"):
        report.replace(file, "other", "")


def test_a_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    picture.draw(times(*RUN, (10, None, 5)), tmp_path / "compare.png")
    assert (tmp_path / "compare.png").stat().st_size > 10_000
