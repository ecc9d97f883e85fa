"""A check's decision about a subject, as a record, and how far a value lies from its limit."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from ckptaudit.findings import Cause, Finding
from ckptaudit.judging.checks import Severity
from ckptaudit.metrics import Kind
from ckptaudit.metrics.measurement import Method
from ckptaudit.rollouts.excerpts import SampleExcerpt

Outcome = Literal["passed", "failed", "waived", "skipped", "error"]
"""`waived` is a broken claim that a waiver in the configuration forgives."""


class Ranked(msgspec.Struct, frozen=True):
    """One tensor's value, for the list of the worst."""

    tensor: str
    value: float
    remark: str = ""


class OverSteps(msgspec.Struct, frozen=True):
    """A check of rollouts over the steps: how many had a value, at how many it is broken, and at which first."""

    judged: int
    broken: int
    first_broken: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A check's decision about a subject, with what a reader needs to believe it; `test` is its test's id.

    `findings` are what a check that counts findings found, the first of them.
    """

    tuned: str
    check: str
    subject: str
    outcome: Outcome
    worst: str | None
    value: float | None
    kind: Kind | None
    limit: float
    source: str
    metric: str = ""
    sign: str = ""
    severity: Severity = "gate"
    reason: str = ""
    ranking: tuple[Ranked, ...] = ()
    limit_from: str = ""
    """Who set the limit, in words: the check's file, an override with its reason, a calibration."""
    waiver: str = ""
    """The waivers that bear on a broken claim, in words: those that forgive it, and those that have ended."""
    test: str = ""
    released: float | None = None
    released_limit: float | None = None
    findings: tuple[Finding, ...] = ()
    method: Method | None = None
    moved_limits: dict[str, float] = {}
    """The limits of tensors that are not held to `limit`."""
    cause: Cause | None = None
    """What the worst tensor looks like, where a search found it."""
    over_steps: OverSteps | None = None
    samples: tuple[SampleExcerpt, ...] = ()
    """Of a broken check of rollouts, samples that did most at its worst step."""

    @property
    def effective_limit(self) -> float:
        """The limit that a value has to keep in the end: the check's, or what a released run allows."""
        return deciding_limit(self.limit, self.released_limit, self.sign)

    def limit_of(self, tensor: str) -> float:
        """The limit that one tensor has to keep in the end."""
        return deciding_limit(self.moved_limits.get(tensor, self.limit), self.released_limit, self.sign)

    @property
    def closes(self) -> bool:
        """Whether it keeps the gate shut; a broken claim that only warns does not."""
        return self.outcome == "error" or (self.outcome == "failed" and self.severity == "gate")


NO_SUCH_WEIGHTS = "this model has no weights of: "
"""How the reason begins where a check is skipped because the model has nothing of the kind."""

NOTHING_SELECTED = "the check's roles select nothing here"
"""The reason of the error where names were expected that this model does not have."""


def deciding_limit(limit: float, released_limit: float | None, sign: str) -> float:
    """The stricter of a check's limit and of what the released run's value allows."""
    if released_limit is None:
        return limit
    return min(limit, released_limit) if sign == "<=" else max(limit, released_limit)


def times_over(value: float, limit: float, sign: str) -> float:
    """How many times a value lies beyond its limit: over 1 is broken, 0.5 is half way there.

    value / limit for `<=`, limit / value for `>=`. Where that quotient says nothing (a limit of 0, a
    negative number) it is infinite for a broken claim and 0 for one that holds.
    """
    above, below = (value, limit) if sign == "<=" else (limit, value)
    if above >= 0 and below > 0:
        return above / below
    return 0.0 if above <= below else math.inf
