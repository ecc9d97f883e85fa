"""Deciding by readings of steps: intervals against the limit, steps without a value, what a verdict then says."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.checks import Check
from ckptaudit.judging.limits import Limit
from ckptaudit.judging.profiles import bundled_checks
from ckptaudit.judging.rollouts import broken_steps, decide_rollouts
from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics import Measurement


@pytest.fixture(scope="module")
def check() -> Check:
    """k3 of each step, at most 0.015."""
    return load_checks(bundled_checks() / "rollouts.toml").by_id["mismatch-k3"]


def step(
    number: int, value: float | None, low: float | None = None, high: float | None = None, **more
) -> Measurement:
    more = {"worst": f"{number}/7", **more}
    return Measurement(
        f"step {number}", None, "", (), "mismatch_k3", value, "exact", low=low, high=high, samples=2_000, **more
    )


def judged(check: Check, *rows: Measurement) -> Verdict:
    return decide_rollouts(check, "rollouts", "tuned", rows, Limit(check.limit))


def test_a_step_breaks_the_limit_when_its_whole_interval_lies_beyond_it(check: Check) -> None:
    rows = [step(1, 0.001), step(2, 0.02, 0.016, 0.024), step(3, 0.05, 0.04, 0.06), step(4, 0.002)]
    verdict = judged(check, *rows)
    assert (verdict.outcome, verdict.worst, verdict.value) == ("failed", "step 3", 0.05)
    assert "first at step 2" in verdict.reason
    assert "2 of 4 steps" in verdict.reason
    assert "step 3: 3/7" in verdict.reason
    assert [row.tensor for row in verdict.ranking] == ["step 3", "step 2"]
    assert "0.04 to 0.06" in verdict.ranking[0].remark
    assert broken_steps(check, rows, Limit(check.limit)) == {"step 2", "step 3"}


def test_an_interval_across_the_limit_is_no_failure_and_says_so(check: Check) -> None:
    for value in (0.014, 0.02):
        verdict = judged(check, step(1, 0.001), step(2, value, 0.01, 0.03))
        assert verdict.outcome == "passed"
        assert "step 2 the interval lies across the limit" in verdict.reason


def test_a_lower_limit_is_broken_from_below(check: Check) -> None:
    lower = replace(check, at_most=None, at_least=0.3)
    assert judged(lower, step(1, 0.2, 0.1, 0.35)).outcome == "passed"
    assert judged(lower, step(1, 0.2, 0.1, 0.29)).outcome == "failed"


def test_steps_without_a_value_are_counted(check: Check) -> None:
    verdict = judged(check, step(1, 0.001), step(2, None, remark="40 tokens; at least 2,000 are needed"))
    assert verdict.outcome == "passed"
    assert "1 of 2 steps could not be judged (40 tokens" in verdict.reason


@pytest.mark.parametrize(("severity", "outcome"), [("gate", "error"), ("warn", "skipped")])
def test_no_value_at_all_cannot_be_judged_where_it_would_close_the_gate(
    check: Check, severity: str, outcome: str
) -> None:
    verdict = judged(replace(check, severity=severity), step(1, None, remark="both sides are identical"))
    assert (verdict.outcome, verdict.reason) == (outcome, "both sides are identical")


def test_a_log_that_breaks_off_is_judged_by_nobody(check: Check) -> None:
    unread = Measurement("rollouts", None, "", (), "mismatch_k3", None, "exact", remark="row group 3 is damaged")
    assert judged(replace(check, severity="warn"), unread).outcome == "error"


def test_a_nan_never_passes(check: Check) -> None:
    assert judged(check, step(1, float("nan"))).outcome == "failed"


def test_readings_of_the_run_are_no_steps(check: Check) -> None:
    run = replace(step(1, 0.9), tensor="run")
    assert judged(check, step(1, 0.001), run).outcome == "passed"
    assert judged(replace(check, per="run"), step(1, 0.001), run).worst == "run"


def test_the_checks_of_rollouts_load_by_themselves() -> None:
    file = load_checks(Path(bundled_checks() / "rollouts.toml"))
    assert {check.per for check in file.checks} == {"step", "run"}
    assert {check.scope for check in file.checks} == {"rollouts"}
