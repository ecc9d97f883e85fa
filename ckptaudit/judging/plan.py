"""The verdicts that are asked for: what each rests on, and where a bound may stand in for a number."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ckptaudit.errors import printable
from ckptaudit.judging.check_files import Check
from ckptaudit.judging.limits import Limits
from ckptaudit.judging.waivers import Granted
from ckptaudit.metrics import REGISTRY
from ckptaudit.pairing.runs import Run


@dataclass(frozen=True)
class Request:
    """One verdict to be given: a check about a subject of a run."""

    check: Check
    run: Run
    subject: str
    limits: Limits | None = None
    granted: tuple[Granted, ...] = ()
    allowed: float | None = None
    """What the released run's value allows, where there is one to compare with."""

    @property
    def strictest(self) -> float:
        """The limit inside which nothing that it rests on can be broken, the comparison included."""
        limit = self.check.limit if self.limits is None else self.limits.strictest(self.check)
        if self.allowed is None:
            return limit
        return min(limit, self.allowed) if self.check.at_most is not None else max(limit, self.allowed)

    @property
    def id(self) -> str:
        """The bracketed part of an item's id; the run stands in it where there are several."""
        return f"{self.run.label}:{self.subject}" if self.run.label else self.subject

    @property
    def name(self) -> str:
        """`spectral-drift[layers.3]`; control characters in a tensor's name are escaped."""
        return f"{self.check.id}[{printable(self.id)}]"


def settled_by_bounds(requests: Iterable[Request]) -> dict[str, float]:
    """For each metric that a bound may stand in for, the limit within which the bound decides every check.

    A metric that no check looks at has an infinite one. One whose values are summed, averaged or used as a
    guard is not there: such a verdict needs the numbers themselves.
    """
    asked = {(r.check, r.strictest) for r in requests if not r.check.about_pair}
    guards = {c.only_where.metric for c, _ in asked if c.only_where is not None}
    limits: dict[str, float] = {}
    for name, metric in REGISTRY.items():
        asking = [(c, limit) for c, limit in asked if c.metric == name]
        above = metric.upper_bound is not None
        plain = all(c.judge_by == "worst" and (c.at_most is not None) is above for c, _ in asking)
        if metric.bound is not None and name not in guards and plain:
            strictest = min if above else max
            limits[name] = strictest((limit for _, limit in asking), default=math.inf if above else -math.inf)
    return limits


def rests_on(request: Request) -> list[str]:
    """The subjects whose measurements a verdict needs; what compares runs is measured apart from them."""
    apart = request.check.about_pair or request.check.about_group or request.check.over
    return [] if apart else owners(request)


def owners(request: Request) -> list[str]:
    """The subjects whose weights a verdict is about."""
    pair = request.run.pair
    if request.subject in pair.subjects:
        return [request.subject]
    if request.check.per == "matrix" and request.subject in pair.owners:
        return [pair.owners[request.subject]]
    return list(pair.subjects)
