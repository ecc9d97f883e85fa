"""From a value and its limit to a verdict's record: what every kind of check ends in."""

from __future__ import annotations

from typing import Any

from ckptaudit.judging.checks import Check
from ckptaudit.judging.limits import Limit, Limits
from ckptaudit.judging.verdict import Outcome, Verdict


def undecided(
    check: Check, subject: str, tuned: str, outcome: Outcome, reason: str, limits: Limits, worst: str | None = None
) -> Verdict:
    """The verdict of a check that has nothing to judge by ("skipped"), or that cannot be judged ("error")."""
    limit = limits.of(worst)
    return outcome_of(check, subject, tuned, limit, outcome, worst=worst, value=None, kind=None, reason=reason)


def decided(
    check: Check, subject: str, tuned: str, value: float, limit: Limit, *, worst: str | None, **facts: Any
) -> Verdict:
    """The verdict that a value and its limit come to."""
    # `not margin >= 0` rather than `margin < 0`: a NaN must never pass.
    outcome: Outcome = "failed" if not check.margin(value, limit.value) >= 0 else "passed"
    return outcome_of(check, subject, tuned, limit, outcome, worst=worst, value=value, **facts)


def outcome_of(check: Check, subject: str, tuned: str, limit: Limit, outcome: Outcome, **facts: Any) -> Verdict:
    """The record of a verdict whose outcome is known, with what the check says of itself."""
    return Verdict(
        tuned=tuned,
        check=check.id,
        subject=subject,
        outcome=outcome,
        limit=limit.value,
        source=check.source,
        metric=check.metric,
        sign=check.sign,
        severity=check.severity,
        limit_from=limit.origin,
        **facts,
    )
