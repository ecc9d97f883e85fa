"""Whether one component of the reward rises at the cost of another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc

from ckptaudit.rollouts.batches import StepRows
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.readings import Metric, Part, Reading, exact, step_subject, unjudged
from ckptaudit.rollouts.run import RunSoFar, tenths

MEANS = Metric(
    name="reward_components",
    unit="1",
    formula="number of reward components; their means by step are its parts",
    source="TRL rewards/{function}/mean",
    scale="count",
    per=("step",),
    needs=("rewards",),
)
DIVERGENCE = Metric(
    name="component_divergence",
    unit="1",
    formula="min(largest rise, largest fall) of a component's mean from the first to the last tenth of steps, "
    "in units of that component's range of values",
    source="ours; the pattern of open-r1 issues 255 and 373: format rises, accuracy falls",
    scale="difference",
    per=("run",),
    needs=("rewards",),
    rests_on=(MEANS.name,),
)
METRICS = (MEANS, DIVERGENCE)
MAX_COMPONENTS = 64


def begin_step(facts: RunFacts, wanted: frozenset[str]) -> Components:
    """The components of a step."""
    return Components()


class Components:
    """Sum, count and range of each component."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}

    def add(self, rows: StepRows) -> None:
        """Take in some rows."""
        if not rows.has("rewards"):
            return
        maps = rows.rows.column("rewards")
        if maps.null_count == rows.count:
            return
        entries = maps.drop_null()
        start, end = entries.offsets[0].as_py(), entries.offsets[-1].as_py()
        keys = entries.keys.slice(start, end - start)
        values = entries.items.slice(start, end - start).to_numpy(zero_copy_only=False)
        for name in pc.unique(keys).to_pylist()[:MAX_COMPONENTS]:
            mine = values[pc.equal(keys, name).to_numpy(zero_copy_only=False)]
            self._take(name, mine[np.isfinite(mine)])

    def _take(self, name: str, values: np.ndarray) -> None:
        if len(values):
            total, count, low, high = self._sums.get(name, [0.0, 0.0, np.inf, -np.inf])
            self._sums[name] = [
                total + float(values.sum()), count + len(values),
                min(low, float(values.min())), max(high, float(values.max())),
            ]  # fmt: skip

    def readings(self, step: int) -> Iterator[Reading]:
        """The means by component, named in `worst` in the order of `parts`."""
        if self._sums:
            names = sorted(self._sums)
            # A part's second number is the range of values here, which the divergence is measured in.
            rows = [self._sums[name] for name in names]
            parts = tuple(Part(total / count, high - low, int(count)) for total, count, low, high in rows)
            reading = exact(MEANS, step_subject(step), len(names), sum(part.samples for part in parts), names)
            yield Reading(
                metric=reading.metric, subject=reading.subject, value=reading.value, samples=reading.samples,
                worst=tuple(names), parts=parts,
            )  # fmt: skip


def run_readings(run: RunSoFar) -> Iterator[Reading]:
    """The largest opposite movement of two components."""
    if DIVERGENCE.name not in run.wanted:
        return
    changes = _changes(run)
    if len(changes) < 2:
        yield unjudged(DIVERGENCE, "run", "fewer than two components of the reward vary over at least two steps")
        return
    riser, faller = max(changes, key=lambda name: changes[name]), min(changes, key=lambda name: changes[name])
    value = max(0.0, min(changes[riser], -changes[faller]))
    remark = f"{riser} {changes[riser]:+.3g}, {faller} {changes[faller]:+.3g} of their ranges"
    yield exact(DIVERGENCE, "run", value, len(run.judged(MEANS.name)), remark=remark)


def _changes(run: RunSoFar) -> dict[str, float]:
    series: dict[str, list[Part]] = {}
    for _, reading in run.judged(MEANS.name):
        for name, part in zip(reading.worst, reading.parts, strict=True):
            series.setdefault(name, []).append(part)
    changes = {}
    for name, parts in series.items():
        width = max(part.standard_error for part in parts)
        if len(parts) > 1 and width > 0:
            first, last = tenths([part.value for part in parts])
            changes[name] = (last - first) / width
    return changes
