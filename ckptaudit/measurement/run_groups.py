"""Measurements of runs that are compared with each other, each group's taken once for a subject."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ckptaudit.measurement.across_runs import measure_across
from ckptaudit.measurement.store import MeasurementStore
from ckptaudit.metrics import RUNS_METRICS, Measurement, Over
from ckptaudit.pairing.runs import Group, Run

NO_GROUP = {
    "steps": "it compares the saves of one run, and --tuned names no two of one",
    "siblings": "it compares runs from one base, and --tuned names fewer than three",
}
"""Why a check has nothing to compare, by what it compares."""


class Series:
    """What the groups' runs are to each other, in numbers."""

    def __init__(self, groups: Sequence[Group], store: MeasurementStore, device: torch.device) -> None:
        self.groups = tuple(groups)
        self._store, self._device = store, device
        self._taken: dict[tuple[int, str], list[list[Measurement]]] = {}

    def judged(self, metric: str) -> list[Run]:
        """The runs about which a metric says something, in the order of their groups."""
        asked = RUNS_METRICS[metric]
        return [
            run
            for group in self.groups
            if group.over == asked.over
            for position, run in enumerate(group.runs)
            if asked.judges(position, group.order.steps)
        ]

    def rows(self, over: Over, run: Run, subject: str) -> tuple[Measurement, ...]:
        """All measurements of a run's subject among its steps or siblings; none if it has neither."""
        group = next((g for g in self.groups if g.over == over and run in g.runs), None)
        if group is None:
            return ()
        position = group.position(run)
        return self._store.take(run.path, f"{subject} among {over}", lambda: self._of(group, subject)[position])

    def _of(self, group: Group, subject: str) -> list[list[Measurement]]:
        key = (self.groups.index(group), subject)
        if key not in self._taken:
            tensors = [run.pair.subjects.get(subject, ()) for run in group.runs]
            self._taken[key] = measure_across(tensors, group.order.steps, group.over, self._device)
        return self._taken[key]
