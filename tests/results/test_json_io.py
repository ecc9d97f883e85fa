"""The JSON reads back as it was; earlier files as far as they go, others not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckptaudit.errors import ReportError
from ckptaudit.report.junit import junit
from ckptaudit.report.markdown import markdown
from ckptaudit.report.terminal import render_summary
from ckptaudit.results.json_io import read_json, write_json
from ckptaudit.results.records import AuditResult

CONTRACT = ("tuned", "check", "subject", "outcome", "worst", "value", "kind", "limit", "source")


def test_the_file_reads_back_as_the_result(supervised: AuditResult, tmp_path: Path) -> None:
    write_json(supervised, tmp_path / "deep" / "a.json")
    assert read_json(tmp_path / "deep" / "a.json") == supervised
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_a_file_with_the_contract_alone_still_makes_reports(supervised: AuditResult, tmp_path: Path) -> None:
    write_json(supervised, tmp_path / "a.json")
    whole = json.loads((tmp_path / "a.json").read_text())
    early = {k: whole[k] for k in ("schema", "base", "tuned", "unaligned", "measurements")}
    early["summary"] = {k: whole["summary"][k] for k in ("passed", "failed", "skipped", "errors")}
    early["verdicts"] = [{k: v[k] for k in CONTRACT} for v in whole["verdicts"]]
    (tmp_path / "early.json").write_text(json.dumps(early))

    read = read_json(tmp_path / "early.json")
    assert [v.sign for v in read.verdicts] == [v.sign for v in supervised.verdicts]
    text = render_summary(read, width=100, colour=False)
    assert "gate CLOSED, worst: spectral-drift at layers.1, 21x the limit" in text
    assert "spectral-drift" in markdown(read)
    assert junit(read).count(b"<failure ") == sum(v.outcome == "failed" for v in supervised.verdicts)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ("not the result of an audit",)),
        ("{", ("not the result of an audit",)),
        ("[]", ("not the result of an audit", "JSON that an audit wrote")),
        ("{}", ("schema",)),
        ('{"schema": "ckptaudit/2"}', ("ckptaudit/2", "ckptaudit/1", "update ckptaudit")),
        ('{"schema": "other/1"}', ("other/1",)),
        ('{"schema": "ckptaudit/1"}', ("base",)),
        ("\x00\xff", ("not the result of an audit",)),
        ("[" * 100_000, ("not the result of an audit",)),
    ],
)
def test_what_is_no_result_is_refused_in_one_line(content: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content, encoding="latin-1")
    with pytest.raises(ReportError) as refused:
        read_json(tmp_path / "a.json")
    assert len(str(refused.value).splitlines()) == 1
    assert all(word in str(refused.value) for word in ("a.json", *words))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(ReportError, match="cannot be read"):
            read_json(path)
