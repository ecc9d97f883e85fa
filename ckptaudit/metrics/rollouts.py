"""What a trainer logged of a run, step by step and over the run: the quantities of `ckptaudit.rollouts`."""

from __future__ import annotations

from dataclasses import dataclass

from ckptaudit.metrics.metric import METRICS, Scale, Scope, register
from ckptaudit.rollouts.quantities import curves, metrics
from ckptaudit.rollouts.readings import Per


@dataclass(frozen=True, slots=True)
class RolloutsMetric:
    """A quantity of a run's rollouts or curves, of each step, of the run, or of either."""

    name: str
    unit: str
    formula: str
    source: str
    scale: Scale
    per: tuple[Per, ...]
    needs: tuple[str, ...]
    scope: Scope = "rollouts"


def rollouts_metric_of(name: str) -> RolloutsMetric:
    """The metric of that name, which is a quantity of rollouts."""
    metric = METRICS[name]
    assert isinstance(metric, RolloutsMetric)  # callers have looked at its scope
    return metric


_OF_CURVES = {metric.name for metric in curves.METRICS}

for _metric in metrics().values():
    register(
        RolloutsMetric(
            name=_metric.name,
            unit=_metric.unit,
            formula=_metric.formula,
            source=_metric.source,
            scale=_metric.scale,
            per=_metric.per,
            needs=("rollouts", "scalars") if _metric.name in _OF_CURVES else ("rollouts",),
        )
    )
