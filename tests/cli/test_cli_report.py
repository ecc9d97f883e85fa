"""`ckptaudit report` and `ckptaudit diff`: files out of files, nothing measured."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ckptaudit.cli import main
from ckptaudit.results.json_io import write_json
from ckptaudit.results.records import AuditResult


@pytest.fixture
def results(supervised: AuditResult, gentle_result: AuditResult, tmp_path: Path) -> tuple[str, str]:
    write_json(gentle_result, tmp_path / "good.json")
    write_json(supervised, tmp_path / "bad.json")
    return str(tmp_path / "good.json"), str(tmp_path / "bad.json")


def test_several_reports_at_once(
    results: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    out = tmp_path / "out"
    asked = ["--junit", "a.xml", "--junit-strict", "b.xml", "--markdown", "c.md", "--parquet", "d.parquet"]
    paths = [str(out / a) if "." in a else a for a in asked]
    assert main(["report", results[1], *paths, "--tensorboard", str(out / "events"), "--github"]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["a.xml", "b.xml", "c.md", "d.parquet", "events"]
    assert len(ElementTree.parse(out / "a.xml").findall(".//failure")) == 24
    assert (out / "c.md").read_text() in (tmp_path / "summary.md").read_text()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 7
    assert [x.split()[0] for x in printed] == ["::error"] * 6 + ["::notice"]


def test_without_an_output_the_summary_is_printed(
    results: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", results[1]]) == 0
    assert "gate CLOSED, worst: spectral-drift" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "none.json"], ("none.json", "cannot be read")),
        (["report", "junk.json"], ("junk.json", "JSON that an audit wrote")),
        (["report", "good.json", "--markdown", "."], ("--markdown", "no file can be written there")),
        (["report", "good.json", "--junit", "good.json/a.xml"], ("--junit", "no file can be written there")),
        (["diff", "good.json", "junk.json"], ("junk.json",)),
        (["diff", "good.json", "good.json", "--factor", "1"], ("--factor", "above 1")),
        (["diff", "good.json", "good.json", "--factor", "nan"], ("--factor", "above 1")),
    ],
)
def test_what_cannot_be_done_is_one_line_and_code_4(
    results: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "junk.json").write_text("{]")
    assert main(arguments) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ERROR: ")
    assert all(word in line for word in words)


def test_diff_closes_when_a_verdict_got_worse(results: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = results
    assert main(["diff", good, bad]) == 1
    printed = capsys.readouterr().out
    assert "worse: 28 verdicts" in printed
    assert "spectral-drift[layers.1]: passed -> failed (0.0002349 -> 0.02109, limit 0.001)" in printed
    assert main(["diff", bad, good]) == 0
    assert main(["diff", good, good]) == 0
    assert "no verdict changed, no number moved" in capsys.readouterr().out


def test_diff_as_json(results: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", *results, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert {c["turn"] for c in told["changed"]} == {"worse"}
    assert told["remarks"] == []
