"""What is said of a release in several places is one thing: version, date, Pythons, scripts."""

import re
import tomllib
from pathlib import Path

import pytest

import fastbn

CHECKOUT = Path(__file__).parents[2]
WORKFLOWS = sorted(CHECKOUT.glob(".github/workflows/*.yml"))
pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="no checkout")


def text(name):
    return (CHECKOUT / name).read_text(encoding="utf-8")


def project():
    return tomllib.loads(text("pyproject.toml"))["project"]


def releases():
    """The versions and dates of the changelog, newest first."""
    return re.findall(r"^## ([\d.]+) - (\d{4}-\d\d-\d\d)$", text("CHANGELOG.md"), re.MULTILINE)


def classified(what):
    """What classifiers of a kind say."""
    start = f"{what} :: "
    found = [each for each in project()["classifiers"] if each.startswith(start)]
    return [each.removeprefix(start) for each in found]


def seen():
    """The systems and Pythons of CI's jobs that have passed before."""
    return re.findall(
        r'os: (\w+)-[\w.-]+, python: "([\d.]+)", seen: true', text(".github/workflows/ci.yml")
    )


def test_the_changelog_begins_with_this_version():
    assert releases()[0][0] == fastbn.__version__


def test_every_release_of_the_changelog_has_a_date_and_they_go_back():
    headings = re.findall(r"^## ", text("CHANGELOG.md"), re.MULTILINE)
    dates = [date for _, date in releases()]
    assert len(headings) == len(dates)
    assert dates == sorted(dates, reverse=True)


def test_a_citation_names_this_release():
    field = re.compile(r'^(version|date-released): "?([\d.-]+)"?$', re.MULTILINE)
    version, date = releases()[0]
    assert dict(field.findall(text("CITATION.cff"))) == {"version": version, "date-released": date}


def test_the_pythons_that_are_declared_are_those_that_were_seen_to_pass():
    declared = [each for each in classified("Programming Language :: Python") if "." in each]
    assert declared == [python for _, python in seen()]
    assert project()["requires-python"] == f">={declared[0]}"


def test_the_systems_that_are_declared_are_those_that_were_seen_to_pass():
    assert {system for system, _ in seen()} == {"ubuntu"}
    assert classified("Operating System") == ["POSIX :: Linux"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_scripts_that_are_there(workflow):
    called = set(re.findall(r"(?:\./)?(\.(?:ci|github)/[\w/.]*\w)", workflow.read_text()))
    assert called
    assert [name for name in called if not (CHECKOUT / name).is_file()] == []
