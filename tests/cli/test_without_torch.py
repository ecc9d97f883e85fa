"""What only reads results, or only says something, runs without torch, which takes seconds to load."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ckptaudit.metrics import METRICS, descriptions
from ckptaudit.results.json_io import write_json
from ckptaudit.results.records import AuditResult
from tests.cli.torchless import ROOT, told


@pytest.fixture
def audited(supervised: AuditResult, gentle_result: AuditResult, tmp_path: Path) -> Path:
    write_json(gentle_result, tmp_path / "good.json")
    write_json(supervised, tmp_path / "bad.json")
    return tmp_path


def test_the_module_in_its_place_does_keep_an_audit_from_starting(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "fixtures" / "base", tmp_path / "base")
    told("audit", "--base=base", "--tuned=base", cwd=tmp_path, code=4)


def test_a_result_is_printed_and_turned_into_every_file(audited: Path) -> None:
    assert "gate CLOSED" in told("report", "bad.json", cwd=audited)
    files = ["a.xml", "b.xml", "c.html", "d.md", "e.sarif", "f.svg", "README.md", "g.parquet"]
    options = ["junit", "junit-strict", "html", "markdown", "sarif", "badge", "model-card", "parquet"]
    told(
        "report", "bad.json", *(f"--{o}={f}" for o, f in zip(options, files, strict=True)), "--github", cwd=audited
    )
    assert all((audited / file).stat().st_size for file in files)


def test_two_results_are_compared(audited: Path) -> None:
    assert "worse" in told("diff", "good.json", "bad.json", cwd=audited, code=1)
    assert told("diff", "good.json", "bad.json", "--json", cwd=audited, code=1).startswith("{")


@pytest.mark.parametrize("command", ["", "diff", "report", "verify", "audit", "init", "collect", "probes"])
def test_help_is_given(command: str, tmp_path: Path) -> None:
    assert "usage:" in told(*command.split(), "--help", cwd=tmp_path)


def test_the_doctor_tells_that_it_does_not_load(tmp_path: Path) -> None:
    said = told("doctor", cwd=tmp_path, code=1)
    assert "torch does not load (ImportError: no torch here)" in said
    assert "device" in said.splitlines()[-1]


def test_reports_know_every_metric_in_the_words_of_the_registry() -> None:
    there = {name: descriptions.describe(metric) for name, metric in METRICS.items()}
    assert descriptions.descriptions() == there, "run `make reference`"
