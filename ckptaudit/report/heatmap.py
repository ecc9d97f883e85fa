"""Where in the network checks are broken: a cell for each layer and role, however many tensors it stands for."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import IntEnum

from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics import Measurement
from ckptaudit.report.places import stack_of
from ckptaudit.report.run_limits import RunLimits
from ckptaudit.results.records import AuditResult


class Shade(IntEnum):
    """How bad a cell is, worst last."""

    HOLDS = 0
    UNSETTLED = 1
    WAIVED = 2
    OVER = 3
    FAR_OVER = 4
    BEYOND = 5
    UNKNOWN = 6


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
    """Ids of the checks that a run broke or that could not be judged, in order; what is only noted is not drawn."""
    drawn = drawn_checks(result, run)
    broken = {v.check for v in result.verdicts if v.tuned == run and v.outcome in ("failed", "error")}
    return [check for check in drawn if check in broken]


def drawn_checks(result: AuditResult, run: str) -> list[str]:
    """Ids of the checks that a map can show: that a sum is too small is no fault of any one weight."""
    no_place = {check.id for check in result.checks if check.judge_by == "sum" and check.sign == ">="}
    own = (v for v in result.verdicts if v.tuned == run and v.check not in no_place)
    return list(dict.fromkeys(v.check for v in own if v.closes or v.severity != "info"))


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


def _shaded(result: AuditResult, run: str, checks: Collection[str]) -> Iterator[tuple[Measurement, Shade]]:
    limits = RunLimits(result, run)
    for m in result.measurements:
        if m.tuned == run:
            for _, verdict in limits.judged(m, checks):
                unsettled = limits.is_unsettled(m, verdict) and verdict.outcome not in ("passed", "skipped")
                yield m, Shade.UNSETTLED if unsettled else _shade(limits.beyond(m, verdict), verdict)


def _shade(beyond: float | None, verdict: Verdict) -> Shade:
    if verdict.outcome in ("passed", "skipped"):
        return Shade.HOLDS
    if beyond is None:
        return Shade.UNKNOWN
    if beyond <= 1:
        return Shade.HOLDS
    if verdict.outcome == "waived":
        return Shade.WAIVED
    if beyond <= FAR:
        return Shade.OVER
    return Shade.FAR_OVER if beyond <= VERY_FAR else Shade.BEYOND
