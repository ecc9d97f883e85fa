"""What is known of a run when its last step has been read, in a few numbers of each step."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.pooling import PooledParts
from ckptaudit.rollouts.readings import Reading, step_subject

Series = list[tuple[int, Reading]]


@dataclass
class StepColumn:
    """A metric at the steps that have a value, 32 bytes each; `why_none` is the remark of the first without one."""

    metric: str
    steps: array[int] = field(default_factory=lambda: array("q"))
    numbers: array[float] = field(default_factory=lambda: array("d"))
    errors: array[float] = field(default_factory=lambda: array("d"))
    samples: array[int] = field(default_factory=lambda: array("q"))
    why_none: str = ""

    def add(self, step: int, reading: Reading) -> None:
        """Append a step."""
        if reading.value is None:
            self.why_none = self.why_none or reading.remark
            return
        self.steps.append(step)
        self.numbers.append(reading.value)
        self.errors.append(math.nan if reading.standard_error is None else reading.standard_error)
        self.samples.append(reading.samples)

    def __iter__(self) -> Iterator[tuple[int, Reading]]:
        """Step and reading, with its value, standard error and samples."""
        for step, value, error, samples in zip(self.steps, self.numbers, self.errors, self.samples, strict=True):
            known = None if math.isnan(error) else error
            yield (
                step,
                Reading(
                    metric=self.metric,
                    subject=step_subject(step),
                    value=value,
                    standard_error=known,
                    samples=samples,
                ),
            )


@dataclass
class RunSoFar:
    """Readings of the steps by metric, the facts declared, and the scalars by canonical name and step."""

    facts: RunFacts
    steps: list[int] = field(default_factory=list)
    columns: dict[str, StepColumn] = field(default_factory=dict)
    pools: dict[str, PooledParts] = field(default_factory=dict)
    detailed: dict[str, Series] = field(default_factory=dict)
    """Readings kept with all that they hold, of the few metrics that `in_detail` names."""
    scalars: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    whole_steps: bool = True
    checkpoint_steps: Sequence[int] = ()
    wanted: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()
    """The metrics of steps that readings of the run rest on."""
    pooled: frozenset[str] = frozenset()
    in_detail: frozenset[str] = frozenset()
    seen: set[str] = field(default_factory=set)
    """The metrics of which any step had a reading."""

    def take(self, step: int, reading: Reading) -> None:
        """Keep what the run's readings rest on."""
        name = reading.metric
        self.seen.add(name)
        if name in self.pooled and reading.parts:
            self.pools.setdefault(name, PooledParts()).add(reading)
        if name in self.in_detail:
            self.detailed.setdefault(name, []).append((step, reading))
        elif name in self.kept and name not in self.pooled:
            self.columns.setdefault(name, StepColumn(name)).add(step, reading)

    def judged(self, metric: str) -> Series:
        """Steps at which a metric has a value."""
        if metric in self.in_detail:
            return [(step, reading) for step, reading in self.detailed.get(metric, ()) if reading.value is not None]
        return list(self.columns.get(metric, ()))

    def values(self, metric: str) -> list[float]:
        """A metric's values over steps."""
        return [reading.value for _, reading in self.judged(metric) if reading.value is not None]

    def why_none(self, metric: str) -> str:
        """Why the first step without a value has none; empty where every step has one, or none was looked at."""
        column = self.columns.get(metric)
        return column.why_none if column else ""


def tenths(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the first and of the last tenth (at least one value each)."""
    size = max(1, round(len(values) / 10))
    return median(values[:size]), median(values[-size:])
