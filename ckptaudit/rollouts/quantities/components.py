"""Whether one component of the reward rises at the cost of another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.readings import Metric, Part, Reading, exact, step_subject, unjudged
from ckptaudit.rollouts.run import RunSoFar, tenths

if TYPE_CHECKING:
    from ckptaudit.rollouts.batches import StepRows

MEANS = Metric(
    name="reward_components",
    unit="1",
    formula="number of reward components; mean, smallest and largest value of each are its parts",
    source="TRL rewards/{function}/mean",
    scale="count",
    per=("step",),
    needs=("rewards",),
    in_detail=True,
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
        import pyarrow.compute as pc

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
        """Three parts for each component, which are named in `worst` in the same order."""
        if self._sums:
            names = sorted(self._sums)
            parts = tuple(part for name in names for part in _parts(*self._sums[name]))
            yield Reading(
                metric=MEANS.name, subject=step_subject(step), value=float(len(names)), samples=parts[0].samples,
                worst=tuple(names), parts=parts,
            )  # fmt: skip


def _parts(total: float, count: float, low: float, high: float) -> tuple[Part, Part, Part]:
    """Mean, smallest and largest value of a component."""
    return tuple(Part(value, 0.0, int(count)) for value in (total / count, low, high))  # type: ignore[return-value]


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
    series: dict[str, list[tuple[float, float, float]]] = {}
    for _, reading in run.judged(MEANS.name):
        values = [part.value for part in reading.parts]
        for place, name in enumerate(reading.worst):
            mean, low, high = values[3 * place : 3 * place + 3]
            series.setdefault(name, []).append((mean, low, high))
    return {name: change for name, steps in series.items() if (change := _change(steps)) is not None}


def _change(steps: list[tuple[float, float, float]]) -> float | None:
    """From the first to the last tenth, in units of the range over the run; None where nothing varies."""
    means, lows, highs = zip(*steps, strict=True)
    width = max(highs) - min(lows)
    if len(means) < 2 or not width > 0:
        return None
    first, last = tenths(means)
    return float((last - first) / width)
