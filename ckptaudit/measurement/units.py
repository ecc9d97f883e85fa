"""Units that are more than matrices: several weights together, runs side by side, conversions and merges."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from msgspec import structs

from ckptaudit.artifact import open_artifact
from ckptaudit.errors import CkptAuditError, printable
from ckptaudit.measurement.batches import failed
from ckptaudit.measurement.jobs import Job, Unit
from ckptaudit.measurement.run_groups import measure_run_group
from ckptaudit.metrics import Measurement, findings_metric_of, group_metric_of
from ckptaudit.metrics.across_runs import runs_metrics
from ckptaudit.metrics.evidence import ParityEvidence
from ckptaudit.metrics.groups import counts, measure_group
from ckptaudit.pairing.auxiliary import Auxiliary
from ckptaudit.pairing.runs import Run, RunGroup

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UnitInputs:
    """What such a unit is measured from; `shared` keeps by run what several metrics derive alike."""

    runs: Sequence[Run]
    groups: Sequence[RunGroup]
    auxiliary: Auxiliary
    device: torch.device
    shared: dict[str, dict[str, Any]] = field(default_factory=dict)

    def measure(self, unit: Unit) -> list[Measurement]:
        """The measurements of a unit that rests on files alone; of one that cannot be measured, why."""
        return guarded(lambda: self._measured(unit), lambda reason: self.unmeasured(unit, reason))

    def unmeasured(self, unit: Unit, reason: str) -> list[Measurement]:
        """What stands in for the measurements of a unit that could not be taken."""
        if unit.scope != "runs":
            return [without_value(unit, reason)]
        group = self.group_of(unit)
        return [
            structs.replace(row, metric=metric, remark=reason, tuned=run.path)
            for run in group.runs
            for row in _matrices(run, unit.subject)
            for metric, known in runs_metrics().items()
            if known.over == group.over
        ]

    def run_of(self, unit: Unit) -> Run:
        """The run that a unit is about."""
        return next(run for run in self.runs if run.path == unit.run)

    def group_of(self, unit: Unit) -> RunGroup:
        """The runs that a unit compares."""
        return next(g for g in self.groups if (g.order.name, g.over) == (unit.run, unit.metric))

    def _measured(self, unit: Unit) -> list[Measurement]:
        if unit.scope == "runs":
            return measure_run_group(self.group_of(unit), unit.subject, self.device)
        run = self.run_of(unit)
        if unit.scope == "group":
            return [self._of_group(unit, run)]
        return [found(unit, self._evidence(unit, run))]

    def _evidence(self, unit: Unit, run: Run) -> object:
        if unit.scope == "parity":
            return self._once(run, "parity", lambda: ParityEvidence(run.pair, self.auxiliary))
        if unit.scope == "artifact":
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
            self.auxiliary,
            self.device,
            self.shared.setdefault(run.path, {}),
        )


def guarded(
    measure: Callable[[], list[Measurement]], otherwise: Callable[[str], list[Measurement]]
) -> list[Measurement]:
    """What is measured; for whatever is raised on the way, what stands in for it, which is given the reason."""
    try:
        return measure()
    except CkptAuditError as error:
        return otherwise(error.sentence)
    except Exception as error:
        logger.debug("a measurement failed", exc_info=True)
        return otherwise(f"{type(error).__name__}: {printable(error)[:300]}")


def found(unit: Unit, evidence: object) -> Measurement:
    """What a unit's metric finds in the evidence, counted. Raises CkptAuditError."""
    findings = tuple(findings_metric_of(unit.metric).find(evidence))
    return structs.replace(without_value(unit, ""), value=float(len(findings)), findings=findings)


def without_value(unit: Unit, reason: str) -> Measurement:
    """A unit's measurement that says why there is no value."""
    return Measurement(unit.subject, None, "", (), unit.metric, None, "exact", remark=reason, tuned=unit.run)


def _matrices(run: Run, subject: str) -> Iterator[Measurement]:
    for tensor in run.pair.subjects.get(subject, ()):
        if tensor.is_matrix:
            yield from failed(Job(tensor, frozenset(("differing_entries",)), Unit(run.path, subject)), "")
