"""ckptaudit.toml: what is accepted, and how each mistake is named."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from ckptaudit.errors import CheckDefinitionError, ConfigError
from ckptaudit.judging.config import check_files, find_config, load_config

OVERRIDE = """
[[override]]
check = "spectral-drift"
roles = ["v_proj"]
at_most = 5e-3
reason = "their own learning rate"
"""

WAIVER = """
[[waiver]]
check = "principal-rotation-left"
subject = "layers.3"
until = 2027-01-31
reason = "under investigation"
"""


def written(folder: Path, text: str, name: str = "ckptaudit.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def complaint(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    text = str(caught.value)
    assert "\n" not in text
    assert path.name in text
    return text


def test_a_good_file_loads(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, f'profile = "sft"\n{OVERRIDE}{WAIVER}'))
    assert config.profile == "sft"
    (override,), (waiver,) = config.overrides, config.waivers
    assert (override.limit, override.roles, override.origin) == (5e-3, ("v_proj",), "override")
    assert (waiver.subject, waiver.until) == ("layers.3", datetime.date(2027, 1, 31))
    assert (override.label, waiver.label) == ("override 1 of ckptaudit.toml", "waiver 1 of ckptaudit.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = = 1", ["line 1"]),
        ('profil = "rlvr"', ["key profil", "did you mean profile"]),
        ('profile = "rl"', ["key profile", "'rl'", "rlvr", "sft, integrity"]),
        ("profile = 3", ["key profile", "str"]),
        ('checks = "ours.toml"', ["key checks", "array"]),
        ('checks = ["missing.toml"]', ["key checks", "missing.toml", "no such check file"]),
        ("override = 3", ["key override", "[[override]]"]),
        ("waiver = [3]", ["key waiver", "[[waiver]]"]),
        (OVERRIDE.replace("reason", "because"), ["override 1", "key because", "key reason: required"]),
        (OVERRIDE.replace("their own learning rate", " "), ["override 1", "key reason: may not be empty"]),
        (OVERRIDE.replace("at_most = 5e-3", ""), ["override 1", "at_most, at_least", "severity"]),
        (f"{OVERRIDE}at_least = 1", ["override 1", "at_most, at_least"]),
        (OVERRIDE.replace("5e-3", "nan"), ["override 1", "key at_most", "finite"]),
        (OVERRIDE.replace("5e-3", "true"), ["override 1", "key at_most", "float"]),
        (OVERRIDE.replace("5e-3", "'5e-3'"), ["override 1", "key at_most", "float"]),
        (OVERRIDE.replace('["v_proj"]', "[]"), ["override 1", "key roles", "at least one"]),
        (OVERRIDE.replace('["v_proj"]', '[""]'), ["override 1", "key roles", "empty"]),
        (OVERRIDE.replace('["v_proj"]', '"v_proj"'), ["override 1", "key roles", "array"]),
        (f"{OVERRIDE}layers = [-1]", ["override 1", "key layers", "count from 0"]),
        (f"{OVERRIDE}layers = [true]", ["override 1", "key layers", "int"]),
        (f'{OVERRIDE}severity = "warn"', ["override 1", "key severity", "whole check"]),
        (f'{OVERRIDE}severity = "loud"', ["override 1", "key severity", "loud"]),
        (f'{OVERRIDE}label = "x"', ["override 1", "key label", "unknown"]),
        (WAIVER.replace("2027-01-31", '"2027-01-31"'), ["waiver 1", "key until", "without quotes"]),
        (WAIVER.replace("2027-01-31", "2027-01-31T00:00:00"), ["waiver 1", "key until", "2027-01-31"]),
        (WAIVER.replace("until = 2027-01-31", ""), ["waiver 1", "key until: required"]),
        (WAIVER.replace("layers.3", ""), ["waiver 1", "key subject: may not be empty"]),
    ],
)
def test_a_mistake_names_file_and_key(tmp_path: Path, text: str, words: list[str]) -> None:
    said = complaint(written(tmp_path, text))
    assert all(word in said for word in words), said


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    faulty = OVERRIDE.replace("5e-3", "inf") + WAIVER.replace("under investigation", "") + "\n[profiles]\n"
    said = complaint(written(tmp_path, faulty))
    assert all(word in said for word in ("key profiles", "override 1, key at_most", "waiver 1, key reason")), said


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "no such configuration file" in complaint(tmp_path / "nowhere.toml")


def test_pyproject_is_a_configuration_where_it_has_our_table(tmp_path: Path) -> None:
    project = written(tmp_path, '[tool.ckptaudit]\nprofile = "sft"\n', "pyproject.toml")
    assert find_config([tmp_path]) == project
    assert load_config(project).profile == "sft"
    own = written(tmp_path, "")
    assert find_config([tmp_path]) == own


@pytest.mark.parametrize("text", ["", "[tool.other]\nx = 1", "tool = 3", "broken = ="])
def test_any_other_pyproject_is_none(tmp_path: Path, text: str) -> None:
    written(tmp_path, text, "pyproject.toml")
    assert find_config([tmp_path]) is None


@pytest.mark.parametrize("text", ["[tool.ckptaudit]\nx = =", "[tool]\nckptaudit = 3"])
def test_a_pyproject_that_means_us_and_is_broken_is_refused(tmp_path: Path, text: str) -> None:
    written(tmp_path, text, "pyproject.toml")
    found = find_config([tmp_path])
    assert found is not None
    complaint(found)


def test_check_files_lie_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "checks").mkdir()
    ours = tmp_path / "checks" / "ours.toml"
    ours.write_text(OURS.format(id="ours"))
    config = load_config(written(tmp_path, 'profile = "integrity"\nchecks = ["checks/ours.toml"]'))
    assert [file.path.name for file in check_files(config)] == ["integrity.toml", "ours.toml"]
    assert [file.path.name for file in check_files(config, "sft")] == ["sft.toml", "ours.toml"]


def test_an_id_of_two_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ours.toml").write_text(OURS.format(id="finite"))
    config = load_config(written(tmp_path, 'checks = ["ours.toml"]'))
    with pytest.raises(CheckDefinitionError, match=r"ours\.toml: check finite: rlvr\.toml has a check of this id"):
        check_files(config)


OURS = """
[[check]]
id = "{id}"
claim = "Ours."
source = "ours"
metric = "relative_update_norm"
at_most = 0.1
roles = ["matrix"]
per = "layer"
breaks_when = "inflate_update"
remedy = "Look."
"""
