"""What is known of a run when its last step has been read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.readings import Reading

Series = list[tuple[int, Reading]]


@dataclass
class RunSoFar:
    """Readings of the steps by metric, the facts declared, and the scalars by canonical name and step."""

    facts: RunFacts
    steps: list[int] = field(default_factory=list)
    series: dict[str, Series] = field(default_factory=dict)
    scalars: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    whole_steps: bool = True
    checkpoint_steps: Sequence[int] = ()
    wanted: frozenset[str] = frozenset()
    kept: frozenset[str] | None = None
    """The metrics of steps that readings of the run rest on; None keeps all."""
    seen: set[str] = field(default_factory=set)
    """The metrics of which any step had a reading."""

    def take(self, step: int, reading: Reading) -> None:
        """Keep a step's reading where the run's readings rest on it."""
        self.seen.add(reading.metric)
        if self.kept is None or reading.metric in self.kept:
            self.series.setdefault(reading.metric, []).append((step, reading))

    def judged(self, metric: str) -> Series:
        """Steps at which a metric has a value."""
        return [(step, reading) for step, reading in self.series.get(metric, ()) if reading.value is not None]

    def values(self, metric: str) -> list[float]:
        """A metric's values over steps."""
        return [reading.value for _, reading in self.judged(metric) if reading.value is not None]


def tenths(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the first and of the last tenth (at least one value each)."""
    size = max(1, round(len(values) / 10))
    return median(values[:size]), median(values[-size:])
