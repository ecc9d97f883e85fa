"""The verdicts to give, what each rests on, and where a bound may stand in for a number."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ckptaudit.behavior.preparation import ProbeSet
from ckptaudit.errors import printable
from ckptaudit.judging.checks import Check
from ckptaudit.judging.effective_config import EffectiveConfig
from ckptaudit.judging.limits import Limits
from ckptaudit.judging.selection import PROBES, ROLLOUTS, Selection, selected
from ckptaudit.judging.waivers import AppliedWaiver
from ckptaudit.judging.wanted import FINITE, metrics_by_tensor, needed
from ckptaudit.measurement.jobs import Computing, Job, Unit
from ckptaudit.measurement.rounds import Asking
from ckptaudit.measurement.run_groups import unit_of
from ckptaudit.metrics import METRICS, FindingsMetric, MatrixMetric, findings_metric_of, matrix_metrics
from ckptaudit.pairing.auxiliary import Auxiliary
from ckptaudit.pairing.runs import Run, RunGroup
from ckptaudit.rollouts.run_log import RunLog

CLEARANCE = 2.0
"""How many times inside its limit a bound has to lie to stand in for a number."""

_NO_LIMIT = {True: math.inf, False: -math.inf}

NOTHING = frozenset[str]()


@dataclass(frozen=True, slots=True)
class Released:
    """What a released run had where this verdict is given, and what that allows."""

    value: float
    allowed: float
    factor: float


@dataclass(frozen=True)
class PlannedVerdict:
    """One verdict to be given: a check about a subject of a run.

    `group` holds the runs that it is compared with. `skip` and `cannot` say why it will be skipped or cannot be
    judged, where that is known before anything is measured.
    """

    check: Check
    run: Run
    subject: str
    limits: Limits
    waivers: tuple[AppliedWaiver, ...] = ()
    released: Released | None = None
    path: Path = Path()
    group: RunGroup | None = None
    skip: str = ""
    cannot: str = ""

    @property
    def strictest(self) -> float:
        """The limit inside which nothing that it rests on can be broken, the comparison included."""
        limit = self.limits.strictest(self.check)
        if self.released is None:
            return limit
        stricter = min if self.check.at_most is not None else max
        return stricter(limit, self.released.allowed)

    @property
    def needs_each(self) -> bool:
        """Whether every matrix must be known to hold or to break its limit, not only that one breaks it."""
        check = self.check
        return (
            bool(self.waivers) or self.released is not None or check.per == "matrix" or check.only_where is not None
        )

    def limit_of(self, matrix: str) -> float:
        """The limit inside which a bound on this matrix settles it, the released run's figure included."""
        return self.strictest if self.released is not None else self.limits.of(matrix).value

    def clear_of(self, matrix: str) -> float:
        """The value inside which a bound on this matrix is far enough from the limit to be shown for the number."""
        return _clear(self.limit_of(matrix), above=self.check.at_most is not None)

    @property
    def name(self) -> str:
        """`spectral-drift[layers.3]`, with the run where there are several; control characters are escaped."""
        subject = f"{self.run.label}:{self.subject}" if self.run.label else self.subject
        return f"{self.check.id}[{printable(subject)}]"

    @property
    def id(self) -> str:
        """The name behind the path of its check file; no two verdicts of a plan share it."""
        return f"{self.path}::{self.name}"

    @property
    def test(self) -> str:
        """The name behind the name of its check file, as tests are called."""
        return f"{self.path.name}::{self.name}"

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units of work whose measurements it needs."""
        if self.skip or self.cannot:
            return ()
        scope, run = self.check.scope, self.run.path
        if scope == "matrix":
            return tuple(Unit(run, subject) for subject in self.owners)
        if scope == "runs":
            return tuple(unit_of(self.group, subject) for subject in self.owners) if self.group else ()
        if scope == "rollouts":
            return (Unit(run, ROLLOUTS, scope),)
        if scope == "probes":
            return (Unit(run, PROBES, scope),)
        own = Unit(run, self.subject, scope, self.check.metric, self.check.roles if scope == "group" else ())
        # What all tensors show together rests on their own measurements.
        return (*(Unit(run, subject) for subject in self.owners), own) if scope == "run" else (own,)

    @property
    def owners(self) -> tuple[str, ...]:
        """The subjects whose weights the verdict is about."""
        pair = self.run.pair
        if self.subject in pair.subjects:
            return (self.subject,)
        if self.check.per == "matrix" and self.subject in pair.owners:
            return (pair.owners[self.subject],)
        return tuple(pair.subjects)


@dataclass(frozen=True)
class AuditPlan:
    """All verdicts to be given, in order, and how what they rest on is measured.

    With `complete` every standing metric of every matrix is measured, otherwise what the verdicts need.
    `logs` are by the path of the run they are of, `checkpoint_steps` the steps at which its checkpoints were saved.
    """

    verdicts: tuple[PlannedVerdict, ...]
    runs: tuple[Run, ...]
    groups: tuple[RunGroup, ...]
    auxiliary: Auxiliary
    config: EffectiveConfig
    computing: Computing
    exact: bool = False
    complete: bool = False
    logs: Mapping[str, RunLog] = field(default_factory=dict)
    checkpoint_steps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    probes: ProbeSet | None = None

    def only(self, ids: Collection[str]) -> AuditPlan:
        """The plan of the verdicts with these ids; where others are left out, only what these need is measured."""
        kept = tuple(planned for planned in self.verdicts if planned.id in ids)
        everything = len(kept) == len(self.verdicts)
        return replace(self, verdicts=kept, complete=self.complete and everything)

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The units of work that the verdicts rest on, in order, each once."""
        return tuple(dict.fromkeys(unit for planned in self.verdicts for unit in planned.units))

    @cached_property
    def effective_computing(self) -> Computing:
        """How to compute, with the bounds that suffice for these verdicts."""
        # A curve over the steps is drawn through numbers, not through bounds.
        drawn = self.complete and any(group.over == "steps" for group in self.groups)
        sufficient = {} if self.exact or drawn else sufficient_bounds(self.verdicts)
        return replace(self.computing, sufficient=sufficient)

    @cached_property
    def questions(self) -> dict[tuple[Unit, str], list[Asking]]:
        """By unit and metric, what the verdicts ask: where one number decides, no more is computed."""
        asking: dict[tuple[Path, str, Unit], PlannedVerdict] = {}
        for planned in (p for p in self.verdicts if p.check.scope == "matrix"):
            # Verdicts on single matrices of a unit ask for the same.
            asking.update({(planned.path, planned.check.id, unit): planned for unit in planned.units})
        questions: dict[tuple[Unit, str], list[Asking]] = {}
        for (_, _, unit), planned in asking.items():
            chosen = selected(planned.check, planned.run.pair, unit.subject)
            names = frozenset(t.name for t in chosen)
            asked = Asking(names, planned.limit_of, planned.clear_of, each=planned.needs_each)
            questions.setdefault((unit, planned.check.metric), []).append(asked)
        return questions

    def rollouts_metrics(self, run: str) -> tuple[str, ...]:
        """What is wanted of a run's rollouts, measured in one pass; all that can be, where `complete`."""
        planned = (p for p in self.verdicts if p.check.scope == "rollouts" and p.units and p.run.path == run)
        wanted = dict.fromkeys(p.check.metric for p in planned)
        if self.complete and wanted:
            known = (name for name, metric in METRICS.items() if metric.scope == "rollouts")
            wanted |= dict.fromkeys(name for name in known if not self.logs[run].lacking(name))
        return tuple(wanted)

    @property
    def probes_metrics(self) -> tuple[tuple[str, str], ...]:
        """What is wanted of the probes, from the same passes: metrics, and of what each."""
        planned = (p for p in self.verdicts if p.check.scope == "probes" and p.units)
        return tuple(dict.fromkeys((p.check.metric, p.check.per) for p in planned))

    def jobs(self, unit: Unit) -> tuple[Job, ...]:
        """The tensors to measure for a unit of scope "matrix", and the metrics wanted of each."""
        tensors = next(run for run in self.runs if run.path == unit.run).pair.subjects[unit.subject]
        wanted = self._wanted.get(unit, {})
        if self.complete:
            standing = _standing()
            both = {asked: standing | asked for asked in {NOTHING, *wanted.values()}}
            return tuple(Job(t, both[wanted.get(t.name, NOTHING)], unit) for t in tensors)
        return tuple(Job(t, wanted[t.name], unit) for t in tensors if t.name in wanted)

    @cached_property
    def _wanted(self) -> dict[Unit, dict[str, frozenset[str]]]:
        """By unit and tensor, the metrics that the verdicts need."""
        asked: dict[Unit, dict[Selection, set[str]]] = {}
        for planned in self.verdicts:
            for unit in (unit for unit in planned.units if unit.scope == "matrix"):
                # Many checks ask for the same selections of a subject; tensor by tensor each is gone through once.
                metrics = asked.setdefault(unit, {})
                for selection, names in needed(planned.check):
                    metrics.setdefault(selection, set()).update(names)
        pairs = {run.path: run.pair for run in self.runs}
        return {unit: metrics_by_tensor(pairs[unit.run], unit.subject, metrics) for unit, metrics in asked.items()}

    def judged_by(self, run: Run) -> dict[str, tuple[str, ...]]:
        """By the name of each aligned weight of a run, the checks that limit what its update may be."""
        found: dict[str, dict[str, None]] = {}
        for planned in self.verdicts:
            unguarded = planned.check.only_where is None and not planned.skip
            if planned.run is run and unguarded and limits_update(planned.check):
                for tensor in selected(planned.check, run.pair, planned.subject):
                    found.setdefault(tensor.name, {})[planned.check.id] = None
        return {name: tuple(checks) for name, checks in found.items()}


def _standing() -> frozenset[str]:
    """What a complete audit reports of every weight."""
    return frozenset(name for name, metric in matrix_metrics().items() if metric.standing) | FINITE


def limits_update(check: Check) -> bool:
    """Whether the check limits what an update may be; that a number is finite or has changed is no such limit."""
    metric = METRICS[check.metric]
    if isinstance(metric, MatrixMetric) and metric.tolerates_nonfinite:
        return check.at_most is not None and metric.name not in FINITE
    if isinstance(metric, FindingsMetric):
        return metric.covers
    # Against another run an update is held to a direction alone, and may be of any size.
    return check.scope in ("matrix", "group", "runs") and "reference" not in metric.needs


def sufficient_bounds(verdicts: Collection[PlannedVerdict]) -> dict[str, float]:
    """For each metric that a bound may stand in for, the value within which the bound decides every check.

    A bound nearer to a limit than by the factor `CLEARANCE` decides nothing: a reader would take it for the number.

    A metric that no check looks at has an infinite one. One whose values are summed, averaged or used as a
    guard is not there: such a verdict needs the numbers themselves.
    """
    asked = {(p.check, p.strictest) for p in verdicts if p.check.scope == "matrix"}
    guards = {c.only_where.metric for c, _ in asked if c.only_where is not None}
    together = {p.check.metric for p in verdicts if p.check.scope == "run"}
    guards |= {name for metric in together for name in findings_metric_of(metric).rests_on}
    limits: dict[str, float] = {}
    for name, metric in matrix_metrics().items():
        asking = [(c, limit) for c, limit in asked if c.metric == name]
        above = metric.upper_bound is not None
        plain = all(c.judge_by == "worst" and (c.at_most is not None) is above for c, _ in asking)
        if metric.bound is not None and name not in guards and plain:
            strictest = min if above else max
            limits[name] = strictest((_clear(limit, above=above) for _, limit in asking), default=_NO_LIMIT[above])
    return limits


def _clear(limit: float, *, above: bool) -> float:
    """The value from which a bound lies clear of a limit; a limit of zero or below has no factor."""
    if limit <= 0:
        return limit
    return limit / CLEARANCE if above else limit * CLEARANCE
