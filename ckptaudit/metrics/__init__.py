"""Named quantities of a pair of matrices. Adding one is one decorated function in one file here."""

from __future__ import annotations

from ckptaudit.metrics import entries, rotation, spectrum
from ckptaudit.metrics.across_runs import RUNS_METRICS, Over, RunsMetric
from ckptaudit.metrics.batch import ALPHA, ETA, PairBatch
from ckptaudit.metrics.large import NARROW, SHORT_SIDE, LargePair, Recall, Tensors, afresh
from ckptaudit.metrics.measurement import Kind, Measurement
from ckptaudit.metrics.pair_facts import PAIR_FACTS, PairFact
from ckptaudit.metrics.registry import REGISTRY, Metric, nearest

__all__ = [
    "ALPHA",
    "ETA",
    "NARROW",
    "PAIR_FACTS",
    "REGISTRY",
    "RUNS_METRICS",
    "SHORT_SIDE",
    "Kind",
    "LargePair",
    "Measurement",
    "Metric",
    "Over",
    "PairBatch",
    "PairFact",
    "Recall",
    "RunsMetric",
    "Tensors",
    "afresh",
    "metric_names",
    "nearest",
]

FAMILIES = (entries, spectrum, rotation)


def metric_names() -> list[str]:
    """Every name a check may use: metrics of matrices, facts about the pair, and what compares runs."""
    return sorted([*REGISTRY, *PAIR_FACTS, *RUNS_METRICS])
