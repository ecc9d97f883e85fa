"""A claim as data: one check with its limit, its scope, its source, and the damage under which it must fail."""

from __future__ import annotations

from typing import Literal

import msgspec

from ckptaudit.metrics import Scope
from ckptaudit.metrics.descriptions import Description, description_of
from ckptaudit.pairing.runs import Over

Per = Literal["matrix", "layer", "model", "step", "run", "probe_set", "probes"]
JudgeBy = Literal["worst", "mean", "weighted_mean", "sum"]
Severity = Literal["gate", "warn", "info"]

CHOICES = {
    "per": ("matrix", "layer", "model", "step", "run", "probe_set", "probes"),
    "judge_by": ("worst", "mean", "weighted_mean", "sum"),
    "severity": ("gate", "warn", "info"),
}


class Guard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a claim can be judged at all: tensors whose `metric` is at least `at_least`."""

    metric: str
    at_least: float


class Separation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A published figure past which a value tells of another kind of training; no calibration goes beyond it."""

    value: float
    source: str


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One claim with its limit, its scope, its source, and the damage under which it must fail."""

    id: str
    claim: str
    source: str
    metric: str
    roles: tuple[str, ...]
    per: Per
    breaks_when: str
    remedy: str
    at_most: float | None = None
    at_least: float | None = None
    judge_by: JudgeBy = "worst"
    only_where: Guard | None = None
    severity: Severity = "gate"
    published: str = ""
    note: str = ""
    never_beyond: Separation | None = None
    optional: bool = False
    """Whether a model without such weights skips the check; else it cannot be judged."""
    sets: tuple[str, ...] = ()
    """Globs of the probe sets that it is about, all where none is given; with `!` in front they are left out."""
    tolerance: float | None = None
    """How wide an interval across the limit may be for the claim to be judged; half the limit if not stated."""

    @property
    def limit(self) -> float:
        """The one limit the check has."""
        limit = self.at_most if self.at_most is not None else self.at_least
        assert limit is not None  # load_checks admits no check without a limit
        return limit

    @property
    def sign(self) -> str:
        """How a good value compares with the limit."""
        return "<=" if self.at_most is not None else ">="

    def margin(self, value: float, limit: float | None = None) -> float:
        """How far inside the limit a value lies; negative when it is broken, NaN for NaN.

        `limit` stands in for the check's own where a configuration has moved it.
        """
        limit = self.limit if limit is None else limit
        return limit - value if self.at_most is not None else value - limit

    @property
    def metrics(self) -> tuple[str, ...]:
        """What has to be measured to judge it."""
        return (self.metric,) if self.only_where is None else (self.metric, self.only_where.metric)

    @property
    def scope(self) -> Scope:
        """What one value of its metric is about."""
        return self._described.scope

    @property
    def over(self) -> Over | None:
        """Whether it compares the steps of a run or sibling runs; None where it judges each run alone."""
        return self._described.over

    @property
    def counts_findings(self) -> bool:
        """Whether its value is a number of findings, each with a name of its own."""
        return self._described.counts_findings

    @property
    def _described(self) -> Description:
        known = description_of(self.metric)
        assert known is not None  # load_checks admits no metric that is not there
        return known
