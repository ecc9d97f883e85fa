"""Measurements of runs that are compared with each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from msgspec import structs

from ckptaudit.measurement.across_runs import measure_across
from ckptaudit.measurement.jobs import Unit
from ckptaudit.metrics import Measurement, ProbesMetric, RunsMetric
from ckptaudit.pairing.runs import Run, RunGroup


def judged_runs(metric: RunsMetric | ProbesMetric, groups: Sequence[RunGroup]) -> list[Run]:
    """The runs about which a metric says something, in the order of their groups."""
    return [
        run
        for group in groups
        if group.over == metric.over
        for position, run in enumerate(group.runs)
        if metric.judges(position, group.order.steps)
    ]


def unit_of(group: RunGroup, subject: str) -> Unit:
    """The unit of work of a subject in a group of runs."""
    return Unit(group.order.name, subject, "runs", group.over)


def measure_run_group(group: RunGroup, subject: str, device: torch.device) -> list[Measurement]:
    """Every metric of the group's kind of a subject, for all of its runs. Raises CkptAuditError."""
    tensors = [run.pair.subjects.get(subject, ()) for run in group.runs]
    found = measure_across(tensors, group.order.steps, group.over, device)
    return [structs.replace(m, tuned=run.path) for run, rows in zip(group.runs, found, strict=True) for m in rows]
