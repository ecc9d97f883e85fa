"""Metrics over the saves of a run, with the limits that hold for them: what the page and the picture draw."""

from __future__ import annotations

import msgspec

from ckptaudit.metrics.scales import is_count
from ckptaudit.report.appearance import unit_of
from ckptaudit.report.places import covers
from ckptaudit.results.records import AuditResult, MetricCurve, Trajectory


class DrawnLimit(msgspec.Struct, frozen=True):
    """A check's limit on a metric."""

    check: str
    sign: str
    limit: float


class StepCurve(msgspec.Struct, frozen=True):
    """A metric over the steps: lowest, median and highest over the matrices, unit and limits."""

    metric: str
    unit: str
    steps: tuple[int, ...]
    lowest: tuple[float | None, ...]
    median: tuple[float | None, ...]
    highest: tuple[float | None, ...]
    limits: tuple[DrawnLimit, ...]


def step_curves(result: AuditResult, row: Trajectory) -> list[StepCurve]:
    """The metrics of a run that a check limits, in the order of the checks; counts are no curves."""
    series = {one.metric: one for one in row.series}
    named = dict.fromkeys(check.metric for check in result.checks if not is_count(check.metric))
    return [drawn_curve(result, row, series[metric]) for metric in named if metric in series]


def drawn_curve(result: AuditResult, row: Trajectory, one: MetricCurve) -> StepCurve:
    """One metric of a run with its unit and the limits of all checks on it."""
    # What holds for vectors alone says nothing of the matrices that a curve sums up.
    matrices = [m for m in result.measurements if m.metric == one.metric and len(m.shape) > 1]
    checks = (c for c in result.checks if c.metric == one.metric and any(covers(c, m) for m in matrices))
    limits = dict.fromkeys(DrawnLimit(c.id, c.sign, c.limit) for c in checks)
    steps = tuple(step.step for step in row.steps)
    return StepCurve(one.metric, unit_of(one.metric), steps, one.lowest, one.median, one.highest, tuple(limits))
