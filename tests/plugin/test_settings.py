"""A gate with a configuration, through pytest: where it is found, what it moves, forgives and lets pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

OURS = """
[[check]]
id = "ours"
claim = "Ours."
source = "ours"
metric = "relative_update_norm"
at_most = 1e-5
roles = ["matrix"]
per = "layer"
breaks_when = "inflate_update"
remedy = "Look."
"""

PAST, FUTURE = "2020-01-31", "9999-12-31"


@pytest.fixture
def pair(pytester: pytest.Pytester, small_pair: tuple[Path, Path]) -> list[str]:
    """Two layers whose update norms of about 1e-3 break a limit of 1e-5, by the check `ours`."""
    pytester.path.joinpath("ours.toml").write_text(OURS)
    return [f"--base={small_pair[0]}", f"--tuned={small_pair[1]}", "--audit-profile=integrity", "--audit-cache=off"]


def configure(pytester: pytest.Pytester, text: str, name: str = "ckptaudit.toml") -> Path:
    path = pytester.path / name
    path.write_text(f'checks = ["ours.toml"]\n{text}')
    return path


def waiver(subject: str, until: str = FUTURE, check: str = "ours") -> str:
    return f'[[waiver]]\ncheck = "{check}"\nsubject = "{subject}"\nuntil = {until}\nreason = "known"\n'


def override(more: str, check: str = "ours") -> str:
    return f'[[override]]\ncheck = "{check}"\n{more}\nreason = "our recipe"\n'


def verdicts(pytester: pytest.Pytester) -> dict[tuple[str, str], dict[str, Any]]:
    rows = json.loads(pytester.path.joinpath("a.json").read_text())["verdicts"]
    return {(row["check"], row["subject"]): row for row in rows}


def test_its_checks_are_added_to_the_profile(pytester: pytest.Pytester, pair: list[str]) -> None:
    configure(pytester, "")
    result = pytester.runpytest(*pair)
    result.assert_outcomes(passed=6, failed=2)
    result.stdout.fnmatch_lines(["ckptaudit: checks integrity, *configuration ckptaudit.toml"])


def test_its_profile_is_the_default_and_the_command_line_wins(pytester: pytest.Pytester, pair: list[str]) -> None:
    pytester.path.joinpath("pyproject.toml").write_text('[tool.ckptaudit]\nprofile = "integrity"\n')
    own = [option for option in pair if not option.startswith("--audit-profile")]
    assert "finite" in str(pytester.runpytest(*own, "--collect-only", "-q").stdout)
    assert "spectral-drift" not in str(pytester.runpytest(*own, "--collect-only", "-q").stdout)
    chosen = pytester.runpytest(*own, "--audit-profile=sft", "--collect-only", "-q")
    assert "spectral-drift" in str(chosen.stdout)


def test_an_override_moves_a_limit_and_the_report_says_who_did(pytester: pytest.Pytester, pair: list[str]) -> None:
    configure(pytester, override("layers = [1]\nat_most = 0.1"))
    pytester.runpytest(*pair, "--audit-json=a.json").assert_outcomes(passed=7, failed=1)
    found = verdicts(pytester)
    assert (found["ours", "layers.1"]["outcome"], found["ours", "layers.1"]["limit"]) == ("passed", 0.1)
    assert found["ours", "layers.1"]["limit_from"] == "override 1 of ckptaudit.toml: our recipe"
    assert found["ours", "layers.0"]["limit_from"] == "check in ours.toml"


def test_a_waived_failure_is_an_expected_one_with_its_reason(
    pytester: pytest.Pytester, pair: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    configure(pytester, waiver("layers.0") + waiver("*.layers.1.*") + waiver("layers.1", check="finite"))
    result = pytester.runpytest(*pair, "-rx", "--junitxml=a.xml", "--audit-json=a.json")
    assert result.ret == 0
    result.assert_outcomes(passed=6, xfailed=2)
    result.stdout.fnmatch_lines(
        [
            "note: waiver 3 of ckptaudit.toml (finite, layers.1) forgave nothing; remove it",
            "waived: ours[[]layers.0[]]: *waiver 1 of ckptaudit.toml, until 9999-12-31: known",
            "XFAIL ours.toml::ours[[]layers.0[]] - waiver 1 of ckptaudit.toml, until 9999-12-31: known",
        ]
    )
    case = _case(pytester, "ours[layers.0]")
    skipped = case.find("skipped")
    assert skipped is not None
    assert skipped.get("type") == "pytest.xfail"
    assert "waiver 1 of ckptaudit.toml, until 9999-12-31: known" in (skipped.get("message") or "")
    result_json = json.loads(pytester.path.joinpath("a.json").read_text())
    assert result_json["summary"]["waived"] == 2
    assert any("forgave nothing" in note for note in result_json["notes"])


def test_a_waiver_past_its_date_fails_the_gate_and_says_so(
    pytester: pytest.Pytester, pair: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    configure(pytester, waiver("layers.0", PAST) + waiver("layers.0", PAST, "finite"))
    result = pytester.runpytest(*pair)
    assert result.ret == 1
    result.assert_outcomes(passed=6, failed=2)
    result.stdout.fnmatch_lines(
        [
            "waiver*waiver 1 of ckptaudit.toml ended on 2020-01-31 (UTC) and forgives nothing any more:*",
            "note: waiver 2 of ckptaudit.toml (finite, layers.0) ended on 2020-01-31 and nothing needs it*",
        ]
    )


def test_what_was_deselected_says_nothing_of_a_waiver(pytester: pytest.Pytester, pair: list[str]) -> None:
    configure(pytester, waiver("layers.1", check="finite") + waiver("*.input_layernorm.*", check="finite"))
    result = pytester.runpytest(*pair, "-k", "finite and layers.0")
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*forgave nothing*")


def test_expected_failures_can_be_switched_off(pytester: pytest.Pytester, pair: list[str]) -> None:
    configure(pytester, waiver("layers.0"))
    assert pytester.runpytest(*pair, "--runxfail").ret == 1


@pytest.mark.parametrize(("severity", "strict"), [("warn", 1), ("info", 0)])
def test_a_check_may_warn_without_closing_the_gate(
    pytester: pytest.Pytester, pair: list[str], severity: str, strict: int
) -> None:
    configure(pytester, override(f'severity = "{severity}"'))
    result = pytester.runpytest(*pair, "--junitxml=a.xml", "--audit-json=a.json")
    assert result.ret == 0
    result.assert_outcomes(passed=8)
    result.stdout.fnmatch_lines(
        ["ours *WARN 2/2*", "warning: ours[[]layers.*[]] and 1 more: *"]
        if severity == "warn"
        else ["ours *NOTE 2/2*", "note: ours[[]layers.*[]] and 1 more: *"]
    )
    case = _case(pytester, "ours[layers.0]")
    assert case.find("failure") is None
    assert {p.get("name"): p.get("value") for p in case.iter("property")}["severity"] == severity
    assert "claim  " in (case.findtext("system-out") or "")
    assert verdicts(pytester)["ours", "layers.0"]["outcome"] == "failed"
    assert pytester.runpytest(*pair, "--audit-strict").ret == strict


def test_workers_obey_the_same_configuration(pytester: pytest.Pytester, pair: list[str]) -> None:
    configure(pytester, waiver("layers.0") + override('severity = "warn"') + override("layers = [1]\nat_most = 1"))
    result = pytester.runpytest_subprocess(*pair, "-n2", "--junitxml=a.xml", "--audit-json=a.json")
    assert result.ret == 0
    result.assert_outcomes(passed=7, xfailed=1)
    found = verdicts(pytester)
    assert found["ours", "layers.0"]["outcome"] == "waived"
    assert found["ours", "layers.1"]["limit_from"] == "override 2 of ckptaudit.toml: our recipe"


def test_own_files_on_the_command_line_keep_the_configuration(pytester: pytest.Pytester, pair: list[str]) -> None:
    configure(pytester, waiver("layers.0") + waiver("layers.0", check="finite"))
    pytester.runpytest("ours.toml", *pair).assert_outcomes(xfailed=1, failed=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (waiver("layers.7"), ("ckptaudit.toml", "waiver 1, key subject", "layers.0")),
        (
            waiver("layers.1", check="spectral-drift"),
            ("waiver 1, key check", "it belongs to profile release and release_sft and"),
        ),
        (override("roles = ['nothing']\nat_most = 1"), ("override 1, key roles", "q_proj")),
        ("[[waivers]]", ("key waivers", "did you mean waiver")),
    ],
)
def test_a_configuration_that_means_nothing_here_ends_with_code_4(
    pytester: pytest.Pytester, pair: list[str], text: str, words: tuple[str, ...]
) -> None:
    configure(pytester, text)
    refused(pytester, pair, words)


def test_a_named_file_is_taken_and_one_that_is_missing_is_refused(
    pytester: pytest.Pytester, pair: list[str]
) -> None:
    configure(pytester, waiver("layers.0") + waiver("layers.1"), "other.toml")
    pytester.runpytest(*pair, "--audit-config=other.toml").assert_outcomes(passed=6, xfailed=2)
    refused(pytester, [*pair, "--audit-config=nowhere.toml"], ("nowhere.toml", "no such configuration file"))


def test_a_checkpoint_has_no_say_in_how_it_is_judged(
    pytester: pytest.Pytester, pair: list[str], small_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pair[1].joinpath("ckptaudit.toml").write_text(waiver("layers.0", check="finite"))
    monkeypatch.chdir(small_pair[1])
    refused(pytester, pair, ("ckptaudit.toml", "lies beside the weights", "--audit-config"))


def refused(pytester: pytest.Pytester, arguments: list[str], words: tuple[str, ...]) -> None:
    result = pytester.runpytest(*arguments)
    assert result.ret == 4
    (line,) = [x for x in result.errlines if x]
    assert line.startswith("ERROR: ")
    assert all(word in line for word in words), line


def _case(pytester: pytest.Pytester, name: str) -> ElementTree.Element:
    cases = ElementTree.parse(pytester.path / "a.xml").getroot().iter("testcase")
    return next(case for case in cases if case.get("name") == name)
