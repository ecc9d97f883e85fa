"""A plan to measurements: the only stage with state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from ckptaudit.errors import CheckDefinitionError, nearest
from ckptaudit.judging.plan import AuditPlan, PlannedVerdict
from ckptaudit.measurement.jobs import Computing, Job, Unit, applies
from ckptaudit.measurement.probes import ProbeRuns, measure_probes
from ckptaudit.measurement.rollouts import measure_rollouts
from ckptaudit.measurement.rounds import Source, by_unit
from ckptaudit.measurement.scheduler import measure
from ckptaudit.measurement.store import MeasurementStore
from ckptaudit.measurement.units import UnitInputs, found, guarded, without_value
from ckptaudit.metrics import Measurement, findings_metric_of, matrix_metrics
from ckptaudit.metrics.evidence import PlanEvidence, RunEvidence
from ckptaudit.pairing.runs import Run
from ckptaudit.pipeline.opening import OpenedAudit

SPREAD = ("group", "runs", "parity")
"""Scopes beside single matrices whose units other processes measure; the others take next to nothing, or rest on
measurements of all tensors, and are measured where everything comes together."""

UnitSource = Callable[[Sequence[Unit]], Iterable[tuple[Unit, "list[Measurement] | str"]]]
"""Whoever measures units that are more than matrices; a text says why one could not be."""

Progress = Callable[[int, int], None]
"""Called with how many tensors of how many have been measured, or how many tokens of probes have been run."""


def execute(
    plan: AuditPlan,
    store: MeasurementStore | None = None,
    progress: Progress | None = None,
    verdicts: Sequence[PlannedVerdict] | None = None,
    source: Source | None = None,
    units: UnitSource | None = None,
    tokens: Progress | None = None,
) -> MeasurementStore:
    """Measure whatever the plan's verdicts, or those of them that are given, rest on and the store does not have.

    What cannot be measured is there without a value and with the reason: one unreadable tensor stops none of the
    others. With a store that several processes share, each unit is measured by one of them; with a `source`,
    matrices are measured by it, and with `units` what is more than matrices and rests on files alone.
    """
    store = store or MeasurementStore()
    executor = _Executor(plan, store, source, tokens)
    wanted = plan.units if verdicts is None else dict.fromkeys(u for planned in verdicts for u in planned.units)
    missing = [unit for unit in wanted if unit not in store]
    matrices = [unit for unit in missing if unit.scope == "matrix"]
    if store.folder is None:
        for done, total in executor.together(matrices):
            if progress is not None:
                progress(done, total)
    if units is not None:
        for unit, rows in units([unit for unit in missing if unit.scope in SPREAD]):
            store.take(unit, partial(executor.spread, unit, rows))
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
    source: Source | None = None
    tokens: Progress | None = None

    @cached_property
    def inputs(self) -> UnitInputs:
        plan = self.plan
        return UnitInputs(plan.runs, plan.groups, plan.auxiliary, plan.computing.device)

    @cached_property
    def probes(self) -> ProbeRuns:
        plan, computing = self.plan, self.plan.computing
        assert plan.probes is not None  # without probes every check of them is skipped
        return ProbeRuns(
            plan.probes,
            plan.runs[0].pair.base,
            computing.device,
            computing.cache,
            watch=self.tokens,
            groups=plan.groups,
        )

    def together(self, units: Sequence[Unit]) -> Iterator[tuple[int, int]]:
        """Units of matrices in one go; tells how many tensors of how many are done."""
        if not units:
            return  # to hold the threads of BLAS takes a millisecond, and front ends ask for each verdict
        jobs = [job for unit in units for job in self.plan.jobs(unit)]
        done = 0
        for count, finished in by_unit(jobs, self.plan.effective_computing, self.plan.questions, self.source):
            for unit, rows in finished:
                self.store.take(unit, partial(list, rows))
            done += count
            yield done, len(jobs)

    def measured(self, unit: Unit) -> list[Measurement]:
        """The measurements of one unit."""
        if unit.scope == "matrix":
            jobs = self.plan.jobs(unit)
            finished = by_unit(jobs, self.plan.effective_computing, self.plan.questions, self.source)
            return [m for _, units in finished for _, rows in units for m in rows]
        if unit.scope == "rollouts":
            return self._rollouts(unit)
        if unit.scope == "probes":
            return measure_probes(self.probes, self.inputs.run_of(unit), self.plan.probes_metrics, unit)
        if unit.scope in ("plan", "run"):
            return guarded(lambda: [self._findings(unit)], lambda reason: [without_value(unit, reason)])
        return self.inputs.measure(unit)

    def spread(self, unit: Unit, rows: list[Measurement] | str) -> list[Measurement]:
        """What a worker measured of a unit, or what stands in for it."""
        return self.inputs.unmeasured(unit, rows) if isinstance(rows, str) else rows

    def _rollouts(self, unit: Unit) -> list[Measurement]:
        # Without a log every check of rollouts is skipped.
        log, wanted = self.plan.logs[unit.run], self.plan.rollouts_metrics(unit.run)
        return measure_rollouts(log, wanted, unit, self.plan.checkpoint_steps.get(unit.run, ()))

    def _findings(self, unit: Unit) -> Measurement:
        """What the plan leaves unjudged, or what the measurements of all tensors show together."""
        run = self.inputs.run_of(unit)
        if unit.scope == "plan":
            return found(unit, PlanEvidence(run.pair, self.plan.judged_by(run)))
        units = [Unit(run.path, subject) for subject in run.pair.subjects]
        rows = [m for unit in units for m in self.store.take(unit, partial(self.measured, unit))]
        rests_on = findings_metric_of(unit.metric).rests_on
        values = {name: {m.tensor: m.value for m in rows if m.metric == name} for name in rests_on}
        return found(unit, RunEvidence(run.pair, values, self.plan.config.config.frozen))
