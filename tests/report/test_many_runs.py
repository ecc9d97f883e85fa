"""A result of thousands of runs or verdicts, whoever wrote it, takes time in proportion to its size."""

from __future__ import annotations

import time

import pytest
from msgspec.structs import replace

from ckptaudit.report.html.page import render_html
from ckptaudit.report.junit import junit
from ckptaudit.report.runs import by_run, run_rows
from ckptaudit.results.records import AuditResult


def with_runs(result: AuditResult, count: int) -> AuditResult:
    return replace(result, tuned=(*result.tuned, *(f"runs/{number}" for number in range(count - 1))))


def test_the_page_of_many_runs(gentle_result: AuditResult) -> None:
    begun = time.process_time()
    page = render_html(with_runs(gentle_result, 5000))
    assert "runs/4998" in page
    assert time.process_time() - begun < 20


def test_each_run_alone_has_its_own_verdicts(gentle_result: AuditResult) -> None:
    own = by_run(with_runs(gentle_result, 3))
    assert list(own) == [*gentle_result.tuned, "runs/0", "runs/1"]
    assert own[gentle_result.tuned[0]].verdicts == gentle_result.verdicts
    assert not own["runs/1"].verdicts
    assert not own["runs/1"].measurements


def test_rows_keep_the_order_of_runs_that_are_alike(gentle_result: AuditResult) -> None:
    rows = run_rows(with_runs(gentle_result, 4))
    assert [row.path for row in rows if row.path.startswith("runs/")] == ["runs/0", "runs/1", "runs/2"]


@pytest.mark.parametrize("strict", [False, True])
def test_junit_of_many_verdicts(strict: bool, gentle_result: AuditResult) -> None:
    verdicts = (gentle_result.verdicts * 400)[:10_000]
    begun = time.process_time()
    content = junit(replace(gentle_result, verdicts=verdicts), strict=strict)
    assert content.count(b"<testcase") == 10_000
    assert time.process_time() - begun < 20
