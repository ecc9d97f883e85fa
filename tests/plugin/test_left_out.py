"""An audit of which checks were left out says so wherever its result goes, and to those who promote by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptaudit.cli import main
from ckptaudit.results.json_io import read_json
from ckptaudit.results.records import LEFT_OUT, AuditResult


def left_out(result: AuditResult) -> list[str]:
    return [line for line in result.not_judged if line.startswith(LEFT_OUT)]


@pytest.fixture
def audited(pytester: pytest.Pytester, small_pair: tuple[Path, Path]) -> tuple[str, ...]:
    return (
        f"--base={small_pair[0]}",
        f"--tuned={small_pair[1]}",
        "--audit-profile=integrity",
        "--audit-json=audit.json",
    )


@pytest.mark.parametrize("words", [("-k", "finite"), ("--deselect", "integrity.toml"), ("-n", "2", "-k", "finite")])
def test_what_was_deselected_is_named(
    words: tuple[str, ...], pytester: pytest.Pytester, audited: tuple[str, ...]
) -> None:
    if words[0] == "--deselect":
        listed = pytester.runpytest(*audited, "--collect-only", "-q").outlines
        words = tuple(f"--deselect={line}" for line in listed if "::" in line and "finite" not in line)
    result = pytester.runpytest(*audited, *words)
    result.stdout.fnmatch_lines([f"*not judged: {LEFT_OUT}4 of 5 *"])
    (line,) = left_out(read_json(pytester.path / "audit.json"))
    assert line.endswith(": aligned, same-shapes, same-dtypes and 1 more")


def test_those_who_promote_by_it_are_told(
    pytester: pytest.Pytester, audited: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    pytester.runpytest_subprocess(*audited, "-k", "finite")
    capsys.readouterr()
    assert main(["promote", str(pytester.path / "audit.json"), "check"]) == 0
    note, answer = capsys.readouterr().out.splitlines()
    assert note.startswith(f"note: {LEFT_OUT}4 of 5 ")
    assert answer == "may be promoted: the gate is open"


def test_an_early_end_leaves_checks_out(pytester: pytest.Pytester, small_pair: tuple[Path, Path]) -> None:
    unchanged = f"--base={small_pair[0]}", f"--tuned={small_pair[0]}", "--audit-profile=rlvr"
    pytester.runpytest(*unchanged, "--audit-json=audit.json", "-x")
    result = read_json(pytester.path / "audit.json")
    assert result.verdicts[-1].outcome == "failed"
    assert left_out(result)


def test_a_whole_audit_leaves_none_out(pytester: pytest.Pytester, audited: tuple[str, ...]) -> None:
    pytester.runpytest(*audited)
    assert left_out(read_json(pytester.path / "audit.json")) == []
