"""The same result as a table, as words and as a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptaudit.checks import load_checks
from ckptaudit.policy import profile_file
from ckptaudit.report.failure import explain, number
from ckptaudit.report.json_file import read_json, write_json
from ckptaudit.report.terminal import render_summary
from ckptaudit.result import AuditResult
from ckptaudit.session import AuditSession
from ckptaudit.verdict import Verdict


@pytest.fixture(scope="module")
def supervised(fixture_pairs: Path) -> tuple[AuditResult, list[Verdict]]:
    session = AuditSession(str(fixture_pairs / "base"), [str(fixture_pairs / "sft")])
    verdicts = [session.verdict(r) for r in session.requests(load_checks(profile_file("rlvr")))]
    return session.result(verdicts), verdicts


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_table_keeps_its_numbers_whole_at_any_width(
    supervised: tuple[AuditResult, list[Verdict]], width: int
) -> None:
    text = render_summary(*supervised, width=width, colour=False)
    row = next(x for x in text.splitlines() if x.startswith("spectral-drift"))
    assert "BROKEN 4/4" in row
    assert "0.02109" in row
    assert "<= 0.001" in row
    assert "\x1b" not in text


def test_the_table_has_one_row_for_each_check(supervised: tuple[AuditResult, list[Verdict]]) -> None:
    result, verdicts = supervised
    text = render_summary(result, verdicts, width=100, colour=False)
    for check in {v.check for v in verdicts}:
        assert sum(line.startswith(f"{check} ") for line in text.splitlines()) == 1


def test_colour_only_where_the_terminal_takes_it(supervised: tuple[AuditResult, list[Verdict]]) -> None:
    assert "\x1b[" in render_summary(*supervised, width=100, colour=True)


def test_the_json_file_reads_back_as_the_result(
    supervised: tuple[AuditResult, list[Verdict]], tmp_path: Path
) -> None:
    write_json(supervised[0], tmp_path / "deep" / "a.json")
    assert read_json(tmp_path / "deep" / "a.json") == supervised[0]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_a_failure_fits_on_one_screen(supervised: tuple[AuditResult, list[Verdict]]) -> None:
    checks = load_checks(profile_file("rlvr")).by_id
    for verdict in supervised[1]:
        text = explain(verdict, checks[verdict.check])
        assert len(text.splitlines()) <= 24
        assert checks[verdict.check].source in " ".join(text.split())


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (3.0, "3"), (1e-5, "1e-05"), (0.0210907, "0.02109"), (123456.0, "123456")]
)
def test_numbers_are_short_and_counts_are_whole(value: float, text: str) -> None:
    assert number(value) == text
