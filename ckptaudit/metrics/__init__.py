"""Evidence to measurements: named quantities. Adding one is one decorated function in a file of this folder."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ckptaudit.metrics.across_runs import RunsMetric, runs_metrics
from ckptaudit.metrics.base_facts import CachedLookup, Tensors, uncached
from ckptaudit.metrics.batch import ALPHA, ETA, PairBatch
from ckptaudit.metrics.behavior import ProbesMetric
from ckptaudit.metrics.estimates import Estimate
from ckptaudit.metrics.findings import FindingsMetric, findings_metric_of
from ckptaudit.metrics.groups import GroupMetric, group_metric_of
from ckptaudit.metrics.large import NARROW, SHORT_SIDE, LargePair
from ckptaudit.metrics.matrix import MatrixMetric, matrix_metrics
from ckptaudit.metrics.measurement import Kind, Measurement, Method
from ckptaudit.metrics.metric import METRICS, Metric, Scale, Scope, meaning_of, of_scope
from ckptaudit.metrics.rollouts import RolloutsMetric

__all__ = [
    "ALPHA",
    "ETA",
    "METRICS",
    "NARROW",
    "SHORT_SIDE",
    "CachedLookup",
    "Estimate",
    "FindingsMetric",
    "GroupMetric",
    "Kind",
    "LargePair",
    "MatrixMetric",
    "Measurement",
    "Method",
    "Metric",
    "PairBatch",
    "ProbesMetric",
    "RolloutsMetric",
    "RunsMetric",
    "Scale",
    "Scope",
    "Tensors",
    "findings_metric_of",
    "group_metric_of",
    "matrix_metrics",
    "meaning_of",
    "of_scope",
    "runs_metrics",
    "uncached",
]

# Families are found, not listed: what a new file registers is there.
for _module in sorted(module.name for module in iter_modules(__path__)):
    import_module(f"{__name__}.{_module}")
