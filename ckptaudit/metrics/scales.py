"""Worse by a factor: what that means on each scale, and near the ends of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ckptaudit.metrics.descriptions import description_of
from ckptaudit.metrics.metric import Scale

NEGLIGIBLE = 0.01
"""Badness below this share of the limit's is as good as none: nobody is to be woken for a tripled millionth."""

LEAST = 1e-300

RIGHT_ANGLE = 90.0


@dataclass(frozen=True, slots=True)
class Badness:
    """How bad a value is, as a positive number that a factor can multiply, for one check's metric and side.

    A size or an angle v with an upper limit is v bad, one with a lower limit 1 / v. A share is bad by its
    odds, v / (1 - v) or the other way round: twice as bad as 0.9, where less is worse, is 0.818, and as 0.02,
    where more is worse, 0.039. A difference is bad by as much as it has of the worse sign, a factor by
    what it has beyond 1. Nothing counts as
    less bad than a hundredth of the limit.
    """

    scale: Scale
    at_most: bool
    limit: float

    def of(self, value: float) -> float:
        """Never below the floor; infinite for a share that is as bad as can be."""
        floor = NEGLIGIBLE * self._raw(self.limit)
        # A limit at the very end of its scale leaves nothing to take a hundredth of.
        return max(self._raw(value), floor if floor < NEGLIGIBLE / LEAST else 0.0)

    def value(self, badness: float) -> float:
        """The value that is this bad."""
        if self.scale == "difference":
            return badness if self.at_most else -badness
        if self.scale == "factor":
            return 1.0 + badness if self.at_most else 1.0 / (1.0 + badness)
        size = badness if self.at_most else 1.0 / max(badness, LEAST)
        if self.scale == "share":
            return 1.0 if math.isinf(size) else size / (1.0 + size)
        return min(size, RIGHT_ANGLE) if self.scale == "angle" else size

    def worsened(self, value: float, factor: float) -> float:
        """The value that is `factor` times as bad."""
        return self.value(factor * self.of(value))

    def _raw(self, value: float) -> float:
        if self.scale == "difference":
            return max(value if self.at_most else -value, 0.0)
        if self.scale == "factor":
            return max((value if self.at_most else 1.0 / max(value, LEAST)) - 1.0, 0.0)
        size = _odds(value) if self.scale == "share" else max(value, 0.0)
        return size if self.at_most else 1.0 / max(size, LEAST)


def badness(metric: str, *, at_most: bool, limit: float) -> Badness:
    """The badness of a metric's values against a limit."""
    known = description_of(metric)
    return Badness(known.scale if known else "size", at_most, limit)


def is_count(metric: str) -> bool:
    """Whether a check on it says how many there must or may be: no factor on that means anything."""
    known = description_of(metric)
    return known is not None and known.scale == "count"


def _odds(share: float) -> float:
    kept = min(max(share, 0.0), 1.0)
    return math.inf if kept == 1.0 else kept / (1.0 - kept)
