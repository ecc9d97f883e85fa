"""Metrics that count findings: each names what it counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ckptaudit.findings import Finding
from ckptaudit.metrics.metric import METRICS, Scale, Scope, register

Find = Callable[[Any], Sequence[Finding]]


@dataclass(frozen=True, slots=True)
class FindingsMetric:
    """The number of findings about one piece of evidence, which `find` takes: the pair, its files, a run's numbers.

    `rests_on` names the metrics of matrices whose values for every tensor are part of the evidence. `covers` says
    that it judges the contents of every weight of the roles it is asked about.
    """

    name: str
    unit: str
    formula: str
    source: str
    scope: Scope
    find: Find
    scale: Scale = "count"
    needs: tuple[str, ...] = ()
    rests_on: tuple[str, ...] = ()
    covers: bool = False


def findings_metric(
    *,
    scope: Scope,
    formula: str,
    unit: str = "findings",
    source: str = "definition",
    rests_on: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
    covers: bool = False,
) -> Callable[[Find], Find]:
    """Register the decorated function under its own name."""

    def register_function(function: Find) -> Find:
        about = (function.__name__, unit, formula, source, scope, function)
        register(FindingsMetric(*about, needs=needs, rests_on=rests_on, covers=covers))
        return function

    return register_function


def findings_metric_of(name: str) -> FindingsMetric:
    """The metric of that name, which counts findings."""
    metric = METRICS[name]
    assert isinstance(metric, FindingsMetric)  # callers have looked at its scope
    return metric
