"""An estimate held against a limit: it holds, it is broken, or the probes cannot tell."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from typing import Literal

from ckptaudit.behavior.statistics import Estimate

Outcome = Literal["holds", "broken", "cannot tell"]

MOST = 10**9
"""More probes than anybody would be told to add."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What an estimate says of a limit; `more` probes of the same spread would settle what cannot be told."""

    outcome: Outcome
    more: int | None = None

    @property
    def sentence(self) -> str:
        """Why it cannot be told, and what would help."""
        if self.outcome != "cannot tell":
            return ""
        if self.more is None:
            return "the interval is wider than the tolerance, and no number of probes can be named that would do"
        return f"the interval is wider than the tolerance: {self.more:,} more probes would do"


def decide(
    estimate: Estimate,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    tolerance: float | None = None,
) -> Decision:
    """Whether one limit holds.

    Broken is what lies past the limit with its complete interval. What lies within it with its complete interval
    holds, and so does an interval around the limit no wider than `tolerance`. Any other cannot be told.
    """
    limit, sign = (at_most, 1.0) if at_most is not None else (at_least, -1.0)
    if limit is None:
        raise ValueError("a limit is needed")
    near, far = sorted((sign * estimate.low, sign * estimate.high))
    if near > sign * limit:
        return Decision("broken")
    if far <= sign * limit or (tolerance is not None and far - near <= tolerance):
        return Decision("holds")
    return Decision("cannot tell", _more(estimate, limit, tolerance))


def _more(estimate: Estimate, limit: float, tolerance: float | None) -> int | None:
    """Intervals narrow at least with the root of the number of probes, n' = n (width / tolerance)^2.

    Without a tolerance the interval must clear the limit, n' = n (half width / distance)^2, if the value stays.
    """
    width, distance = estimate.high - estimate.low, abs(limit - estimate.value)
    if tolerance:
        factor = width / tolerance
    else:
        towards = estimate.high if estimate.value < limit else estimate.low
        factor = abs(towards - estimate.value) / distance if distance else inf
    needed = estimate.probes * factor**2
    return max(1, ceil(needed) - estimate.probes) if needed <= MOST else None
