"""Evidence to measurements: named quantities. Adding one is one decorated function in a file of this folder.

Names are loaded when first used: what only describes a metric, or holds its value, does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptaudit.metrics.across_runs import RunsMetric, runs_metrics
    from ckptaudit.metrics.base_facts import CachedLookup, Tensors, uncached
    from ckptaudit.metrics.batch import PairBatch
    from ckptaudit.metrics.behavior import ProbesMetric
    from ckptaudit.metrics.estimates import Estimate
    from ckptaudit.metrics.findings import FindingsMetric, findings_metric_of
    from ckptaudit.metrics.groups import GroupMetric, group_metric_of
    from ckptaudit.metrics.large import NARROW, SHORT_SIDE, LargePair
    from ckptaudit.metrics.matrix import MatrixMetric, matrix_metrics
    from ckptaudit.metrics.measurement import Kind, Measurement, Method
    from ckptaudit.metrics.metric import METRICS, Metric, Scale, Scope, of_scope
    from ckptaudit.metrics.rollouts import RolloutsMetric
    from ckptaudit.metrics.weight_batch import ALPHA, ETA

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
    "of_scope",
    "runs_metrics",
    "uncached",
]

_HOMES = {
    "across_runs": ("RunsMetric", "runs_metrics"),
    "base_facts": ("CachedLookup", "Tensors", "uncached"),
    "batch": ("PairBatch",),
    "behavior": ("ProbesMetric",),
    "estimates": ("Estimate",),
    "findings": ("FindingsMetric", "findings_metric_of"),
    "groups": ("GroupMetric", "group_metric_of"),
    "large": ("NARROW", "SHORT_SIDE", "LargePair"),
    "matrix": ("MatrixMetric", "matrix_metrics"),
    "measurement": ("Kind", "Measurement", "Method"),
    "metric": ("METRICS", "Metric", "Scale", "Scope", "of_scope"),
    "rollouts": ("RolloutsMetric",),
    "weight_batch": ("ALPHA", "ETA"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'ckptaudit.metrics' has no attribute {name!r}")
    return getattr(import_module(f"ckptaudit.metrics.{_HOME_OF[name]}"), name)
