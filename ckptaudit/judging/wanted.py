"""What verdicts need measured, selection by selection of tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from ckptaudit.judging.checks import Check
from ckptaudit.judging.selection import Selection, selection_of
from ckptaudit.measurement.jobs import condition_of
from ckptaudit.metrics import findings_metric_of
from ckptaudit.pairing import ModelPair

FINITE = frozenset(("nonfinite_entries", "base_nonfinite_entries"))
"""Counted of every weight that is measured, whatever is asked of it."""

ALL = "all"
"""The group of roles that every weight is in."""


def needed(check: Check) -> Iterator[tuple[Selection, tuple[str, ...]]]:
    """The tensors of a subject that a verdict of the check rests on, and the metrics it needs of them."""
    if check.scope == "matrix":
        yield selection_of(check), check.metrics
        return
    for name in findings_metric_of(check.metric).rests_on:
        yield Selection((ALL,), condition_of(name)), (name,)


def metrics_by_tensor(
    pair: ModelPair, subject: str, metrics: Mapping[Selection, Collection[str]]
) -> dict[str, frozenset[str]]:
    """The metrics wanted of each tensor of a subject, from those of selections of them."""
    wanted: dict[str, frozenset[str]] = {}
    for selection, names in metrics.items():
        joined: dict[frozenset[str], frozenset[str]] = {}
        for tensor in selection.of(pair, subject):
            before = wanted.get(tensor.name, FINITE)
            if before not in joined:
                joined[before] = before.union(names)
            wanted[tensor.name] = joined[before]
    return wanted
