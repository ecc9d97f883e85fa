"""Broken verdicts on rollouts with samples that show what broke them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from ckptaudit.judging.judge import verdict_of
from ckptaudit.judging.plan import AuditPlan
from ckptaudit.judging.rollouts import RUN
from ckptaudit.judging.selection import ROLLOUTS
from ckptaudit.judging.verdict import Verdict
from ckptaudit.measurement.jobs import Unit
from ckptaudit.measurement.store import MeasurementStore
from ckptaudit.metrics import METRICS, Measurement
from ckptaudit.rollouts.excerpts import ANY, SampleExcerpt
from ckptaudit.rollouts.quantities import metrics
from ckptaudit.rollouts.readings import step_of

logger = logging.getLogger(__name__)

SHOWN = 3
"""How many samples a verdict shows."""

Place = tuple[int, str]
"""A step and the name of a sample or group in it."""


@dataclass(frozen=True)
class Excerpts:
    """Looks samples up, once for each run: front ends that judge one by one keep it between verdicts."""

    found: dict[str, dict[Place, list[SampleExcerpt]]] = field(default_factory=dict)

    def shown(self, verdict: Verdict, plan: AuditPlan, store: MeasurementStore) -> Verdict:
        """The verdict with samples of its worst step, if it is a broken one on rollouts; any other as it is."""
        if verdict.outcome != "failed" or verdict.tuned not in plan.logs or not _is_of_rollouts(verdict):
            return verdict
        if verdict.tuned not in self.found:
            self.found[verdict.tuned] = _looked_up(verdict.tuned, plan, store)
        known, rows = self.found[verdict.tuned], _rows(verdict.tuned, store)
        samples = [sample for place in _places(verdict, rows) for sample in known.get(place, ())]
        return structs.replace(verdict, samples=tuple(samples[:SHOWN]))


def _looked_up(run: str, plan: AuditPlan, store: MeasurementStore) -> dict[Place, list[SampleExcerpt]]:
    """The samples that all broken verdicts on a run's rollouts name."""
    # Imported late: pyarrow is an extra, and only rollouts need it.
    from ckptaudit.rollouts.samples import find_samples

    rows = _rows(run, store)
    named: dict[int, set[str]] = {}
    for verdict in _broken(run, plan, store):
        for step, name in _places(verdict, rows):
            named.setdefault(step, set()).add(name)
    try:
        return find_samples(plan.logs[run].table, {step: frozenset(names) for step, names in named.items()}, SHOWN)
    except Exception:  # what only illustrates a verdict may not cost it
        logger.debug("samples could not be looked up", exc_info=True)
        return {}


def _broken(run: str, plan: AuditPlan, store: MeasurementStore) -> Iterator[Verdict]:
    for planned in plan.verdicts:
        known = planned.check.scope == "rollouts" and all(unit in store for unit in planned.units)
        if planned.run.path == run and known:
            verdict = verdict_of(planned, store)
            if verdict.outcome == "failed":
                yield verdict


def _places(verdict: Verdict, rows: Sequence[Measurement]) -> list[Place]:
    """The samples and groups that did most at the verdict's worst step; all of it, where none is named."""
    at, metric = verdict.ranking[0].tensor if verdict.ranking else "", verdict.metric
    if at == RUN:
        own = next((m for m in rows if (m.metric, m.tensor) == (metric, at)), None)
        at = own.worst.partition(",")[0] if own else ""
        metric = next(iter(metrics()[metric].rests_on), metric)
    step = step_of(at)
    if step is None:
        return []
    series = (m.series for m in rows if m.metric == metric and m.series is not None)
    names = next((value.note.names for one in series for value in one if value.step == step), ())
    return [(step, name) for name in names] or [(step, ANY)]


def _rows(run: str, store: MeasurementStore) -> Sequence[Measurement]:
    unit = Unit(run, ROLLOUTS, "rollouts")
    return store[unit] if unit in store else ()  # noqa: SIM401  # a store has no get


def _is_of_rollouts(verdict: Verdict) -> bool:
    return METRICS[verdict.metric].scope == "rollouts"
