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
from ckptaudit.metrics.batch import ALPHA, ETA, PairBatch
from ckptaudit.metrics.groups import GROUP_METRICS, GroupMetric
from ckptaudit.metrics.large import NARROW, SHORT_SIDE, LargePair, Recall, Tensors, afresh
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
    "SHORT_SIDE",
    "GroupMetric",
    "Kind",
    "LargePair",
    "Measurement",
    "Metric",
    "PairBatch",
    "PairFact",
    "Recall",
    "Tensors",
    "afresh",
    "described",
    "metric_names",
    "nearest",
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
    """Every name a check may use: metrics of matrices, of groups of weights, and facts about the pair."""
    return sorted([*REGISTRY, *GROUP_METRICS, *PAIR_FACTS])


def described(name: str) -> Metric | GroupMetric | PairFact | None:
    """What stands behind a name, for its unit, formula and source."""
    return REGISTRY.get(name) or GROUP_METRICS.get(name) or PAIR_FACTS.get(name)
