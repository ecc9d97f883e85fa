"""Measurements by metric, layer and role, as compact as a browser can take: experts of a cell in one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod

import msgspec

from ckptaudit.errors import printable
from ckptaudit.metrics import Measurement
from ckptaudit.metrics.descriptions import description_of
from ckptaudit.report.places import covers, stack_of, subject_of
from ckptaudit.report.run_limits import RunLimits
from ckptaudit.results.records import AuditResult, CheckRecord

KEPT = 6
"""How many of a cell's tensors are listed, the worst first; the JSON has them all."""

ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The order in which a layer uses its matrices, and a reader expects them."""

OUTSIDE = "outside the layers"


class CellLimit(msgspec.Struct, frozen=True):
    """A check's limit on some roles of a metric."""

    check: str
    sign: str
    limit: float
    roles: tuple[int, ...]


class Cell(msgspec.Struct, frozen=True, array_like=True):
    """What one role of one layer measured: `worst` stands first among `listed`, which holds (name, value, kind).

    `over` is how many times the worst admitted value lies beyond the check's limit; -1 without a check, -2 where
    the check's guard admits none of the tensors, -3 where all that is known is a bound beyond the limit. `missing`
    counts tensors without a value. `kind` is that of the worst; a mean with a bound in it is one (`mean_kind`).
    """

    row: int
    role: int
    count: int
    missing: int
    worst: float | None
    mean: float | None
    kind: str
    over: float
    listed: tuple[tuple[int, float, str], ...]
    mean_kind: str


class MetricGrid(msgspec.Struct, frozen=True):
    """A metric over layers and roles, with the limits that hold in it. `largest`: the worst is the largest."""

    metric: str
    unit: str
    formula: str
    source: str
    meaning: str
    largest: bool
    limits: tuple[CellLimit, ...]
    cells: tuple[Cell, ...]


class Grids(msgspec.Struct, frozen=True):
    """Every metric of a run. `rows` are subjects of numbered layers, then one row for all that stands outside."""

    rows: tuple[str, ...]
    roles: tuple[str, ...]
    grids: tuple[MetricGrid, ...]


@dataclass
class Names:
    """Tensor names, each written once; cells refer to them by number."""

    known: dict[str, int] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """The number of a name, new if it was not known."""
        return self.known.setdefault(name, len(self.known))

    def listed(self) -> list[str]:
        """The names in order, fit to be shown."""
        return [printable(name) for name in self.known]


def grids_of(result: AuditResult, run: str, names: Names) -> Grids:
    """The grids of one run, metrics with a check first, in the order of the checks."""
    own = [m for m in result.measurements if m.tuned == run]
    rows, roles = _rows(own), _roles(own)
    metrics: dict[str, list[Measurement]] = {}
    for m in own:
        metrics.setdefault(m.metric, []).append(m)
    checked = [c.metric for c in result.checks if c.metric in metrics]
    order = [*dict.fromkeys(checked), *sorted(set(metrics) - set(checked))]
    grid = _GridMaker(result.checks, rows, roles, RunLimits(result, run), names)
    return Grids(tuple(rows), tuple(roles), tuple(grid.make(metric, metrics[metric]) for metric in order))


@dataclass(frozen=True)
class _GridMaker:
    checks: Sequence[CheckRecord]
    rows: dict[str, int]
    roles: dict[str, int]
    limits: RunLimits
    names: Names

    def make(self, metric: str, measured: Sequence[Measurement]) -> MetricGrid:
        checks = [c for c in self.checks if c.metric == metric]
        largest = not checks or checks[0].sign == "<="
        groups: dict[tuple[int, int], list[Measurement]] = {}
        for m in measured:
            groups.setdefault((_row(m, self.rows), self.roles[m.role]), []).append(m)
        known = description_of(metric)
        return MetricGrid(
            metric=metric,
            unit=known.unit if known else "1",
            formula=known.formula if known else "",
            source=known.source if known else "",
            meaning=known.meaning if known else "",
            largest=largest,
            limits=tuple(self._limit(c, measured) for c in checks),
            cells=tuple(self._cell(where, group, checks, largest) for where, group in sorted(groups.items())),
        )

    def _limit(self, check: CheckRecord, measured: Sequence[Measurement]) -> CellLimit:
        roles = {self.roles[m.role] for m in measured if covers(check, m)}
        return CellLimit(check.id, check.sign, check.limit, tuple(sorted(roles)))

    def _cell(
        self, where: tuple[int, int], group: list[Measurement], checks: Sequence[CheckRecord], largest: bool
    ) -> Cell:
        known = [(m.value, m) for m in group if m.value is not None]
        # A number is worse than a bound beyond it: what is behind the bound nobody knows.
        ranked = sorted(known, key=lambda pair: pair[0], reverse=largest)
        ranked = sorted(ranked, key=lambda pair: self._is_unsettled(pair[1]))
        return Cell(
            *where,
            count=len(group),
            missing=len(group) - len(known),
            worst=ranked[0][0] if ranked else None,
            mean=math.fsum(value for value, _ in known) / len(known) if known else None,
            kind=ranked[0][1].kind if ranked else "exact",
            over=self._over(group, checks),
            listed=tuple((self.names.number(m.tensor), value, m.kind) for value, m in ranked[:KEPT]),
            mean_kind=_shared_kind(m for _, m in known),
        )

    def _over(self, group: list[Measurement], checks: Sequence[CheckRecord]) -> float:
        if not any(covers(check, m) for check in checks for m in group):
            return -1.0
        over = [
            beyond
            for m in group
            for _, verdict in self.limits.judged(m)
            if (beyond := self.limits.beyond(m, verdict)) is not None and not self.limits.is_unsettled(m, verdict)
        ]
        unsettled = any(map(self._is_unsettled, group))
        if unsettled and max(over, default=0.0) <= 1:
            return -3.0
        return min(max(over), 1e300) if over else -2.0

    def _is_unsettled(self, m: Measurement) -> bool:
        if m.kind == "exact":  # of most numbers no verdict has to be looked up
            return False
        return any(self.limits.is_unsettled(m, verdict) for _, verdict in self.limits.judged(m))


def parameters(row: Measurement) -> int:
    """Number of entries of the tensor."""
    return prod(row.shape)


def _rows(measured: Sequence[Measurement]) -> dict[str, int]:
    layers = {(stack_of(m.tensor), m.layer, subject_of(m)) for m in measured if m.layer is not None}
    names = [subject for _, _, subject in sorted(layers)]
    if any(m.layer is None for m in measured):
        names.append(OUTSIDE)
    return {name: i for i, name in enumerate(names)}


def _row(m: Measurement, rows: dict[str, int]) -> int:
    return rows[OUTSIDE if m.layer is None else subject_of(m)]


def _roles(measured: Sequence[Measurement]) -> dict[str, int]:
    """Roles in the order in which a layer uses them: matrices first, then vectors, what stands outside last."""
    seen: dict[str, tuple[bool, bool, int, int]] = {}
    for m in measured:
        known = ORDER.index(m.role) if m.role in ORDER else len(ORDER)
        key = (m.layer is None, len(m.shape) < 2, known, len(seen))
        seen[m.role] = min(seen.get(m.role, key), key)
    return {role: i for i, role in enumerate(sorted(seen, key=lambda role: seen[role]))}


def _shared_kind(measured: Iterable[Measurement]) -> str:
    return next((m.kind for m in measured if m.kind != "exact"), "exact")
