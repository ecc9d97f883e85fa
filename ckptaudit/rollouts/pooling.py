"""Signed means of many steps pooled into those of the run, weighted by their samples, as the steps go by."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ckptaudit.rollouts.readings import Part, Reading


@dataclass
class _Pool:
    samples: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, part: Part) -> None:
        if part.samples and math.isfinite(part.standard_error):
            self.samples += part.samples
            self.total += part.value * part.samples
            self.squares += (part.standard_error * part.samples) ** 2

    def made(self) -> Part:
        if not self.samples:
            return Part(math.nan, math.nan, 0)
        return Part(self.total / self.samples, math.sqrt(self.squares) / self.samples, self.samples)


@dataclass
class PooledParts:
    """The parts of a metric over all steps; `worst` is the step with the part most standard errors from 0.

    Steps are independent: SE^2 of the pooled mean = sum (SE_i n_i)^2 / (sum n_i)^2.
    """

    worst: str = ""
    _furthest: float = -1.0
    _pools: list[_Pool] = field(default_factory=list)

    def add(self, reading: Reading) -> None:
        """Add the parts of a step's reading, of which every step has as many."""
        if not self._pools:
            self._pools = [_Pool() for _ in reading.parts]
        for pool, part in zip(self._pools, reading.parts, strict=True):
            pool.add(part)
        furthest = max(map(score, reading.parts))
        if furthest > self._furthest:
            self._furthest, self.worst = furthest, reading.subject

    @property
    def parts(self) -> list[Part]:
        """The pooled means."""
        return [pool.made() for pool in self._pools]


def score(part: Part) -> float:
    """How many standard errors a mean is from 0; 0 where there is no standard error."""
    return abs(part.value) / part.standard_error if part.standard_error > 0 else 0.0
