"""A plan to measurements: the only stage with state."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from msgspec import structs

from ckptaudit.artifact import open_artifact
from ckptaudit.errors import CheckDefinitionError, CkptAuditError, nearest, printable
from ckptaudit.judging.plan import AuditPlan, PlannedVerdict
from ckptaudit.measurement.jobs import Computing, Job, Unit, applies
from ckptaudit.measurement.rollouts import measure_rollouts
from ckptaudit.measurement.rounds import by_unit
from ckptaudit.measurement.run_groups import measure_run_group
from ckptaudit.measurement.scheduler import measure
from ckptaudit.measurement.store import MeasurementStore
from ckptaudit.metrics import FindingsMetric, Measurement, findings_metric_of, group_metric_of, matrix_metrics
from ckptaudit.metrics.evidence import ParityEvidence, PlanEvidence, RunEvidence
from ckptaudit.metrics.groups import counts, measure_group
from ckptaudit.pairing.runs import Run
from ckptaudit.pipeline.opening import OpenedAudit

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with how many tensors of how many have been measured."""


def execute(
    plan: AuditPlan,
    store: MeasurementStore | None = None,
    progress: Progress | None = None,
    verdicts: Sequence[PlannedVerdict] | None = None,
) -> MeasurementStore:
    """Measure whatever the plan's verdicts, or those of them that are given, rest on and the store does not have.

    What cannot be measured is there without a value and with the reason: one unreadable tensor stops none of the
    others. With a store that several processes share, each unit is measured by one of them.
    """
    store = store or MeasurementStore()
    executor = _Executor(plan, store)
    wanted = plan.units if verdicts is None else dict.fromkeys(u for planned in verdicts for u in planned.units)
    missing = [unit for unit in wanted if unit not in store]
    matrices = [unit for unit in missing if unit.scope == "matrix"]
    if store.folder is None:
        for done, total in executor.together(matrices):
            if progress is not None:
                progress(done, total)
    for unit in missing:
        store.take(unit, partial(executor.measured, unit))
    return store


def measure_metric(
    opened: OpenedAudit, metric: str, run: Run, subject: str, roles: Sequence[str] = ("all",)
) -> dict[str, float]:
    """A metric of a subject's tensors, exactly, by tensor name; NaN where it cannot be computed.

    Raises CheckDefinitionError for an unknown metric, CkptAuditError where a tensor cannot be read.
    """
    if metric not in matrix_metrics():
        raise CheckDefinitionError(f"unknown metric {metric!r}; {nearest(metric, sorted(matrix_metrics()))}")
    tensors = [t for t in run.pair.select(tuple(roles)).get(subject, ()) if applies(metric, t)]
    unit = Unit(run.path, subject)
    computing = Computing(opened.device, opened.batch_bytes, cache=opened.cache)
    found = measure([Job(t, frozenset({metric}), unit) for t in tensors], computing)
    return {m.tensor: float("nan") if m.value is None else m.value for m in found}


@dataclass(frozen=True)
class _Executor:
    plan: AuditPlan
    store: MeasurementStore
    shared: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By run, what several metrics derive alike."""

    def together(self, units: Sequence[Unit]) -> Iterator[tuple[int, int]]:
        """Units of matrices in one go; tells how many tensors of how many are done."""
        if not units:
            return  # to hold the threads of BLAS takes a millisecond, and front ends ask for each verdict
        jobs = [job for unit in units for job in self.plan.jobs(unit)]
        done = 0
        for count, finished in by_unit(jobs, self.plan.effective_computing, self.plan.questions):
            for unit, rows in finished:
                self.store.take(unit, partial(list, rows))
            done += count
            yield done, len(jobs)

    def measured(self, unit: Unit) -> list[Measurement]:
        """The measurements of one unit."""
        if unit.scope == "matrix":
            jobs = self.plan.jobs(unit)
            finished = by_unit(jobs, self.plan.effective_computing, self.plan.questions)
            return [m for _, units in finished for _, rows in units for m in rows]
        try:
            return self._other(unit)
        except CkptAuditError as error:
            return [_without_value(unit, error.sentence)]
        except Exception as error:
            logger.debug("a measurement failed", exc_info=True)
            return [_without_value(unit, f"{type(error).__name__}: {printable(error)[:300]}")]

    def _other(self, unit: Unit) -> list[Measurement]:
        if unit.scope == "runs":
            group = next(g for g in self.plan.groups if (g.order.name, g.over) == (unit.run, unit.metric))
            return measure_run_group(group, unit.subject, self.plan.computing.device)
        if unit.scope == "rollouts":
            return self._rollouts(unit)
        run = next(run for run in self.plan.runs if run.path == unit.run)
        return [self._of_group(unit, run) if unit.scope == "group" else self._findings(unit, run)]

    def _rollouts(self, unit: Unit) -> list[Measurement]:
        # Without a log every check of rollouts is skipped.
        log, wanted = self.plan.logs[unit.run], self.plan.rollouts_metrics(unit.run)
        return measure_rollouts(log, wanted, unit, self.plan.checkpoint_steps.get(unit.run, ()))

    def _findings(self, unit: Unit, run: Run) -> Measurement:
        metric = findings_metric_of(unit.metric)
        findings = tuple(metric.find(self._evidence(metric, run)))
        return structs.replace(_without_value(unit, ""), value=float(len(findings)), findings=findings)

    def _evidence(self, metric: FindingsMetric, run: Run) -> object:
        if metric.scope == "plan":
            return PlanEvidence(run.pair, self.plan.judged_by(run))
        if metric.scope == "run":
            units = [Unit(run.path, subject) for subject in run.pair.subjects]
            rows = [m for unit in units for m in self.store.take(unit, partial(self.measured, unit))]
            values = {name: {m.tensor: m.value for m in rows if m.metric == name} for name in metric.rests_on}
            return RunEvidence(run.pair, values, self.plan.config.config.frozen)
        if metric.scope == "parity":
            return self._once(run, "parity", lambda: ParityEvidence(run.pair, self.plan.auxiliary))
        if metric.scope == "artifact":
            return self._once(run, "artifact", lambda: open_artifact(run.pair.base, run.pair.tuned))
        return run.pair

    def _once(self, run: Run, name: str, derive: Callable[[], object]) -> object:
        shared = self.shared.setdefault(run.path, {})
        if name not in shared:
            shared[name] = derive()
        return shared[name]

    def _of_group(self, unit: Unit, run: Run) -> Measurement:
        chosen = run.pair.select(unit.roles)
        subjects = chosen if unit.subject not in run.pair.subjects else {unit.subject: chosen[unit.subject]}
        tensors = [t for ts in subjects.values() for t in ts if counts(t)]
        if unit.subject in run.pair.owners:
            tensors = [t for t in tensors if unit.subject in t.matrix_names()]
        return measure_group(
            group_metric_of(unit.metric),
            unit.subject,
            unit.roles,
            run,
            tensors,
            self.plan.auxiliary,
            self.plan.computing.device,
            self.shared.setdefault(run.path, {}),
        )


def _without_value(unit: Unit, reason: str) -> Measurement:
    return Measurement(unit.subject, None, "", (), unit.metric, None, "exact", remark=reason, tuned=unit.run)
