"""Named quantities of a pair of matrices. Adding one is one decorated function in one file here."""

from __future__ import annotations

from ckptaudit.metrics import entries, rotation, spectrum
from ckptaudit.metrics.batch import ALPHA, ETA, PairBatch
from ckptaudit.metrics.registry import REGISTRY, Metric, find_metric, nearest

__all__ = ["ALPHA", "ETA", "REGISTRY", "Metric", "PairBatch", "find_metric", "nearest"]

FAMILIES = (entries, spectrum, rotation)
