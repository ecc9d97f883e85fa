"""Where in the network checks are broken: a cell for each layer and role, however many tensors it stands for."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import IntEnum

from ckptaudit.judging.judge import times_over
from ckptaudit.report.places import is_selected, stack_of, subject_of
from ckptaudit.results.records import AuditResult, CheckRow, MeasurementRow, VerdictRow


class Shade(IntEnum):
    """How bad a cell is, worst last."""

    HOLDS = 0
    WAIVED = 1
    OVER = 2
    FAR_OVER = 3
    BEYOND = 4
    UNKNOWN = 5


FAR, VERY_FAR = 2.0, 10.0
"""Factors beyond the limit at which a cell takes the next shade."""


@dataclass(frozen=True)
class Grid:
    """Layers x roles of one stack of one run; `outside` holds what belongs to no layer."""

    run: str
    stack: str
    cells: dict[tuple[int, str], Shade]
    outside: dict[str, Shade]

    @property
    def layers(self) -> list[int]:
        """Layer numbers in order."""
        return sorted({layer for layer, _ in self.cells})

    @property
    def roles(self) -> list[str]:
        """Roles in the order in which the tensors come."""
        return list(dict.fromkeys(role for _, role in self.cells))


def broken_checks(result: AuditResult, run: str) -> list[str]:
    """Ids of the checks that a run broke or that could not be judged, in order."""
    return list(
        dict.fromkeys(v.check for v in result.verdicts if v.tuned == run and v.outcome in ("failed", "error"))
    )


def grids(result: AuditResult, run: str, checks: Collection[str]) -> list[Grid]:
    """One grid for each stack of the run: in each cell the worst that any of these checks found there."""
    found: dict[str, Grid] = {}
    for row, shade in _shaded(result, run, checks):
        stack = stack_of(row.tensor)
        grid = found.setdefault(stack, Grid(run, stack, {}, {}))
        if row.layer is None:
            grid.outside[row.role] = max(shade, grid.outside.get(row.role, Shade.HOLDS))
        else:
            cell = (row.layer, row.role)
            grid.cells[cell] = max(shade, grid.cells.get(cell, Shade.HOLDS))
    return list(found.values())


def _shaded(result: AuditResult, run: str, checks: Collection[str]) -> Iterator[tuple[MeasurementRow, Shade]]:
    by_metric: dict[str, list[CheckRow]] = {}
    for check in result.checks:
        if check.id in checks:
            by_metric.setdefault(check.metric, []).append(check)
    verdicts = {(v.check, v.subject): v for v in result.verdicts if v.tuned == run and v.check in checks}
    for row in result.measurements:
        if row.metric in by_metric and row.tuned == run:
            for check in by_metric[row.metric]:
                verdict = _about(verdicts, check, row)
                if verdict is not None and _is_covered(row, check, verdict):
                    yield row, _shade(row, verdict)


def _about(verdicts: dict[tuple[str, str], VerdictRow], check: CheckRow, row: MeasurementRow) -> VerdictRow | None:
    subject = "model"
    if check.per != "model":
        subject = row.tensor if check.per == "matrix" else subject_of(row)
    return verdicts.get((check.id, subject))


def _is_covered(row: MeasurementRow, check: CheckRow, verdict: VerdictRow) -> bool:
    if check.roles:
        return is_selected(row, check.roles)
    # A file of an earlier release does not say which roles the check is about; its worst tensors it names.
    return any(ranked.tensor == row.tensor for ranked in verdict.ranking)


def _shade(row: MeasurementRow, verdict: VerdictRow) -> Shade:
    if verdict.outcome in ("passed", "skipped"):
        return Shade.HOLDS
    if row.value is None or not math.isfinite(row.value):
        return Shade.UNKNOWN
    beyond = times_over(row.value, verdict.bar, verdict.sign)
    if beyond <= 1:
        return Shade.HOLDS
    if verdict.outcome == "waived":
        return Shade.WAIVED
    if beyond <= FAR:
        return Shade.OVER
    return Shade.FAR_OVER if beyond <= VERY_FAR else Shade.BEYOND
