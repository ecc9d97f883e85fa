"""What the project says of itself stands in one place, and the places agree."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import settings
from packaging.requirements import Requirement

import ckptaudit
from ckptaudit.cli.extras import ENABLES, FOR_DEVELOPMENT
from tests.conftest import SLOW

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
KINDS = {kind["directory"] for kind in PROJECT["tool"]["towncrier"]["type"]}


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def lower_bounds(names: list[str]) -> dict[str, str]:
    """The lowest release allowed of each, by name."""
    found = map(Requirement, names)
    return {r.name: next(s.version for s in r.specifier if s.operator == ">=") for r in found}


def test_the_version_stands_in_the_package_alone() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    assert version("ckptaudit") == ckptaudit.__version__


def test_the_lowest_versions_tested_are_the_lowest_allowed() -> None:
    pinned = pins("constraints-lowest.txt")
    allowed = lower_bounds(PROJECT["project"]["dependencies"])
    assert pinned.keys() >= allowed.keys()
    for name in allowed.keys() - {"torch"}:
        assert re.fullmatch(rf"{re.escape(allowed[name])}(\.0)*", pinned[name]), name
    assert pinned["torch"] == pins("constraints.txt")["torch"]


@pytest.mark.parametrize("fragment", sorted((ROOT / "changelog.d").glob("*.md")), ids=lambda p: p.name)
def test_news_is_of_a_kind_that_the_changelog_has(fragment: Path) -> None:
    _, kind, _ = fragment.name.rsplit(".", 2)
    assert kind in KINDS
    assert fragment.read_text().strip()


def test_the_changelog_has_its_place_for_the_next_release() -> None:
    assert PROJECT["tool"]["towncrier"]["start_string"] in (ROOT / "CHANGELOG.md").read_text()


def test_types_are_published() -> None:
    assert (ROOT / "ckptaudit" / "py.typed").is_file()


def test_no_property_test_fails_for_being_slow() -> None:
    assert settings.default is not None
    assert settings.default.deadline is None


def test_every_target_says_what_it_is_for_in_contributing() -> None:
    targets = re.findall(r"^(\w[\w-]*):.*##", (ROOT / "Makefile").read_text(), re.M)
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert [name for name in targets if f"make {name}" not in page] == ["clean"]


@pytest.mark.parametrize("name", SLOW)
def test_what_is_called_slow_is_there(name: str) -> None:
    path, _, test = name.partition("::")
    found = ROOT / "tests" / path
    assert found.exists()
    assert not test or f" {test.partition('::')[0]}" in found.read_text()


def test_the_doctor_says_what_each_extra_enables() -> None:
    assert {*PROJECT["project"]["optional-dependencies"]} - {*FOR_DEVELOPMENT} == ENABLES.keys()
