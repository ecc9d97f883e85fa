"""Named quantities of a pair of matrices. Adding one is one decorated function in one file here."""

from __future__ import annotations

from ckptaudit.metrics import entries, intruders, orthogonality, rotation, spectrum
from ckptaudit.metrics.batch import ALPHA, ETA, PairBatch
from ckptaudit.metrics.measurement import Kind, Measurement
from ckptaudit.metrics.pair_facts import PAIR_FACTS, PairFact
from ckptaudit.metrics.registry import REGISTRY, Metric, nearest

__all__ = [
    "ALPHA",
    "ETA",
    "PAIR_FACTS",
    "REGISTRY",
    "Kind",
    "Measurement",
    "Metric",
    "PairBatch",
    "PairFact",
    "metric_names",
    "nearest",
]

FAMILIES = (entries, spectrum, rotation, orthogonality, intruders)


def metric_names() -> list[str]:
    """Every name a check may use: metrics of matrices, and facts about the pair."""
    return sorted([*REGISTRY, *PAIR_FACTS])
