"""Metrics of a log of rollouts over its steps, with limits and first failure: for the picture and for trackers."""

from __future__ import annotations

import math

import msgspec

from ckptaudit.report.appearance import unit_of
from ckptaudit.report.steps import DrawnLimit
from ckptaudit.results.records import AuditResult
from ckptaudit.results.rollouts import RolloutsRecord, StepCurve
from ckptaudit.rollouts.readings import step_of


class LoggedCurve(msgspec.Struct, frozen=True):
    """A metric at the steps that have a finite value; `low` and `high` are the ends of the interval there.

    `first_broken` is the first step at which a check on it is broken, None where none is.
    """

    metric: str
    unit: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    limits: tuple[DrawnLimit, ...]
    first_broken: int | None


def logged_curves(result: AuditResult, log: RolloutsRecord) -> list[LoggedCurve]:
    """Every curve of a log that has a value, those that a check limits at each step first."""
    found = [_curve(result, log, one) for one in log.curves]
    return sorted((curve for curve in found if curve.steps), key=lambda curve: not curve.limits)


def _curve(result: AuditResult, log: RolloutsRecord, one: StepCurve) -> LoggedCurve:
    per_step = {check.id for check in result.checks if check.per == "step"}
    own = [v for v in result.verdicts if v.tuned == log.tuned and v.metric == one.metric and v.check in per_step]
    broken = [v.over_steps.first_broken for v in own if v.outcome == "failed" and v.over_steps is not None]
    first = [step for subject in broken if (step := step_of(subject)) is not None]
    rows = zip(log.step_numbers, one.values, one.low or one.values, one.high or one.values, strict=True)
    known = [
        (step, value, value if low is None else low, value if high is None else high)
        for step, value, low, high in rows
        if value is not None and math.isfinite(value)
    ]
    steps, values, low, high = zip(*known, strict=True) if known else ((), (), (), ())
    limits = dict.fromkeys(DrawnLimit(v.check, v.sign, v.effective_limit) for v in own)
    return LoggedCurve(
        one.metric, unit_of(one.metric), steps, values, low, high, tuple(limits), min(first, default=None)
    )
