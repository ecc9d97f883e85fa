"""Named quantities of a pair of matrices. Adding one is one decorated function in one file here."""

from __future__ import annotations

from ckptaudit.metrics import (
    alignment,
    connectivity,
    entries,
    fisher,
    gradients,
    intruders,
    orthogonality,
    pissa,
    rotation,
    spectrum,
)
from ckptaudit.metrics.across_runs import RUNS_METRICS, Over, RunsMetric
from ckptaudit.metrics.base_facts import CachedLookup, Tensors, uncached
from ckptaudit.metrics.batch import ALPHA, ETA, PairBatch
from ckptaudit.metrics.estimates import Estimate, Method
from ckptaudit.metrics.groups import GROUP_METRICS, GroupMetric
from ckptaudit.metrics.large import NARROW, SHORT_SIDE, LargePair
from ckptaudit.metrics.measurement import Kind, Measurement
from ckptaudit.metrics.pair_facts import PAIR_FACTS, PairFact
from ckptaudit.metrics.registry import REGISTRY, Metric, nearest

__all__ = [
    "ALPHA",
    "ETA",
    "GROUP_METRICS",
    "NARROW",
    "PAIR_FACTS",
    "REGISTRY",
    "RUNS_METRICS",
    "SHORT_SIDE",
    "CachedLookup",
    "Estimate",
    "GroupMetric",
    "Kind",
    "LargePair",
    "Measurement",
    "Method",
    "Metric",
    "Over",
    "PairBatch",
    "PairFact",
    "RunsMetric",
    "Tensors",
    "described",
    "metric_names",
    "nearest",
    "uncached",
]

FAMILIES = (
    entries,
    spectrum,
    rotation,
    orthogonality,
    intruders,
    gradients,
    fisher,
    alignment,
    pissa,
    connectivity,
)


def metric_names() -> list[str]:
    """Every name a check may use: of matrices, of groups of weights, facts about the pair, what compares runs."""
    return sorted([*REGISTRY, *GROUP_METRICS, *PAIR_FACTS, *RUNS_METRICS])


def described(name: str) -> Metric | GroupMetric | PairFact | RunsMetric | None:
    """What stands behind a name, for its unit, formula and source."""
    return REGISTRY.get(name) or GROUP_METRICS.get(name) or PAIR_FACTS.get(name) or RUNS_METRICS.get(name)
