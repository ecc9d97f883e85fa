"""Measurements against a check: the decision, in one place. What cannot be judged is never green."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from ckptaudit.judging.check_files import Check, Severity
from ckptaudit.judging.limits import Limit, Limits
from ckptaudit.metrics import Kind, Measurement

Outcome = Literal["passed", "failed", "waived", "skipped", "error"]
"""`waived` is a broken claim that a waiver in the configuration forgives."""

DEGENERATE_GAP = 0.01
"""Below this relative gap at k the top-k subspace is as good as arbitrary, and an angle to it says little."""


class Ranked(msgspec.Struct, frozen=True):
    """One tensor's value, for the list of the worst."""

    tensor: str
    value: float
    remark: str = ""


class Decision:
    """What follows from a decision, whether it was just made or is read from a report."""

    __slots__ = ()

    if TYPE_CHECKING:
        outcome: Outcome
        limit: float
        released_limit: float | None
        sign: str
        severity: Severity

    @property
    def bar(self) -> float:
        """The limit that a value has to keep in the end: the check's, or what a released run allows."""
        return deciding_limit(self.limit, self.released_limit, self.sign)

    @property
    def closes(self) -> bool:
        """Whether it keeps the gate shut; a broken claim that only warns does not."""
        return self.outcome == "error" or (self.outcome == "failed" and self.severity == "gate")


class Verdict(Decision, msgspec.Struct, frozen=True, kw_only=True):
    """A check's decision about a subject, with what a reader needs to believe it; `test` is its test's id."""

    tuned: str
    check: str
    subject: str
    outcome: Outcome
    worst: str | None
    value: float | None
    kind: Kind | None
    limit: float
    source: str
    metric: str
    sign: str
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


def judge(
    check: Check, subject: str, tuned: str, measured: Sequence[Measurement], limits: Limits | None = None
) -> Verdict:
    """Decide from every measurement of the subject's tensors; `measured` may hold other metrics too.

    Each tensor is held to its own limit, the one with the least room against it decides, and the
    verdict's limit is that one's.
    """
    limits = limits or Limits.own(check)
    own = [m for m in measured if m.metric == check.metric]
    if not own:
        return _undecided(check, subject, tuned, "error", "the check's roles select nothing here", limits)
    kept, blind = admitted(check, own, measured)
    if not kept and not blind:
        return _undecided(check, subject, tuned, "skipped", _guard_reason(check), limits)
    bad = blind or [m for m in kept if m.value is None or not math.isfinite(m.value)]
    if bad:
        reason = f"{_cause(bad[0], measured)}: {check.metric} of {bad[0].tensor} has no value"
        return _undecided(check, subject, tuned, "error", reason, limits, worst=bad[0].tensor)
    ranked = sorted(kept, key=lambda m: _room(check, _number(m), limits.of(m.tensor).value))
    value, limit = _aggregate(check, ranked), limits.of(ranked[0].tensor)
    return Verdict(
        tuned=tuned,
        check=check.id,
        subject=subject,
        # `not margin >= 0` rather than `margin < 0`: a NaN must never pass.
        outcome="failed" if not check.margin(value, limit.value) >= 0 else "passed",
        worst=ranked[0].tensor,
        value=value,
        kind=_kind(ranked, check),
        limit=limit.value,
        source=check.source,
        metric=check.metric,
        sign=check.sign,
        severity=check.severity,
        ranking=tuple(Ranked(m.tensor, _number(m), _remark(m, measured, check, limits)) for m in ranked[:6]),
        limit_from=limit.origin,
    )


def broken_tensors(check: Check, measured: Sequence[Measurement], limits: Limits) -> frozenset[str]:
    """The tensors to which a failure is due: those outside their limits; all of them, if summed or averaged."""
    kept, _ = admitted(check, [m for m in measured if m.metric == check.metric], measured)
    if check.judge_by != "worst":
        return frozenset(m.tensor for m in kept)
    return frozenset(m.tensor for m in kept if not check.margin(_number(m), limits.of(m.tensor).value) >= 0)


def judge_pair(
    check: Check, subject: str, tuned: str, findings: Sequence[str], limits: Limits | None = None
) -> Verdict:
    """Decide a check about the pair's headers: how many findings against how many allowed."""
    value, limit = float(len(findings)), (limits or Limits.own(check)).usual
    return Verdict(
        tuned=tuned,
        check=check.id,
        subject=subject,
        outcome="failed" if not check.margin(value, limit.value) >= 0 else "passed",
        worst=finding_about(findings[0]) if findings else None,
        value=value,
        kind="exact",
        limit=limit.value,
        source=check.source,
        metric=check.metric,
        sign=check.sign,
        severity=check.severity,
        reason="; ".join(findings[:8]),
        limit_from=limit.origin,
    )


def finding_about(finding: str) -> str:
    """The tensor that a finding about the pair is about, under its printable name."""
    return finding.partition(":")[0]


def judge_group(check: Check, subject: str, tuned: str, measured: Measurement, limit: Limit) -> Verdict:
    """Decide a check about several weights taken together, by their one number."""
    if measured.value is None or not math.isfinite(measured.value):
        reason = measured.remark or f"{check.metric} of {subject} has no value"
        return _undecided(check, subject, tuned, "error", reason, Limits(limit), worst=measured.worst or None)
    return Verdict(
        tuned=tuned,
        check=check.id,
        subject=subject,
        outcome="failed" if not check.margin(measured.value, limit.value) >= 0 else "passed",
        worst=measured.worst or subject,
        value=measured.value,
        kind=measured.kind,
        limit=limit.value,
        source=check.source,
        metric=check.metric,
        sign=check.sign,
        severity=check.severity,
        ranking=(Ranked(subject, measured.value, measured.remark),),
        limit_from=limit.origin,
    )


def undecidable(check: Check, subject: str, tuned: str, reason: str, limits: Limits | None = None) -> Verdict:
    """The verdict of a check that something outside its claim kept from being judged."""
    return _undecided(check, subject, tuned, "error", reason, limits or Limits.own(check))


def skipped(check: Check, subject: str, tuned: str, reason: str, limits: Limits | None = None) -> Verdict:
    """The verdict of a check that has nothing here to judge by, or was not given what it needs."""
    return _undecided(check, subject, tuned, "skipped", reason, limits or Limits.own(check))


def _undecided(
    check: Check, subject: str, tuned: str, outcome: Outcome, reason: str, limits: Limits, worst: str | None = None
) -> Verdict:
    limit = limits.of(worst)
    return Verdict(
        tuned=tuned,
        check=check.id,
        subject=subject,
        outcome=outcome,
        worst=worst,
        value=None,
        kind=None,
        limit=limit.value,
        source=check.source,
        metric=check.metric,
        sign=check.sign,
        severity=check.severity,
        reason=reason,
        limit_from=limit.origin,
    )


def _room(check: Check, value: float, limit: float) -> tuple[float, float]:
    """How far inside its limit a value lies, as a share of the limit, so that different limits compare."""
    margin = check.margin(value, limit)
    share = margin / abs(limit) if limit else math.copysign(math.inf, margin) if margin else 0.0
    return share, margin


def _number(m: Measurement) -> float:
    assert m.value is not None  # judge has set aside what could not be computed
    return m.value


def admitted(
    check: Check, own: list[Measurement], measured: Sequence[Measurement]
) -> tuple[list[Measurement], list[Measurement]]:
    """What the guard admits; and, apart, what stands without a value for the guard to look at."""
    guard = check.only_where
    if guard is None:
        return own, []
    known = {m.tensor: m.value for m in measured if m.metric == guard.metric}
    unknown = [m for m in own if known.get(m.tensor) is None]
    return [m for m in own if (known.get(m.tensor) or 0.0) >= guard.at_least], unknown


def _guard_reason(check: Check) -> str:
    guard = check.only_where
    assert guard is not None  # without a guard nothing is set aside
    return f"too little to judge by: no tensor here has {guard.metric} >= {guard.at_least:g}"


def _cause(bad: Measurement, measured: Sequence[Measurement]) -> str:
    count = next((m.value for m in measured if m.tensor == bad.tensor and m.metric == "nonfinite_entries"), None)
    if count:
        return f"the tuned tensor has {count:.0f} NaN or infinite entries"
    return "an entry of either side is not finite, or its decomposition did not converge"


def _aggregate(check: Check, ranked: list[Measurement]) -> float:
    values = [_number(m) for m in ranked]
    if check.judge_by == "sum":
        return math.fsum(values)
    if check.judge_by == "mean":
        return math.fsum(values) / len(values)
    if check.judge_by == "weighted_mean":
        total = sum(m.parameters for m in ranked)
        # A tensor without entries has nothing to say; if all are such, their plain value stands.
        return (
            math.fsum(v * m.parameters for v, m in zip(values, ranked, strict=True)) / total if total else values[0]
        )
    return values[0]


def _kind(ranked: list[Measurement], check: Check) -> Kind:
    judged = ranked[:1] if check.judge_by == "worst" else ranked
    return next((m.kind for m in judged if m.kind != "exact"), "exact")


def _remark(m: Measurement, measured: Sequence[Measurement], check: Check, limits: Limits) -> str:
    own = limits.moved.get(m.tensor)
    said = f"limit {check.sign} {own.value:g} here" if own else ""
    return "; ".join(filter(None, (said, _doubt(m, measured))))


def _doubt(m: Measurement, measured: Sequence[Measurement]) -> str:
    """A word beside an angle whose subspace is ill-defined."""
    if not m.metric.startswith("principal_angle"):
        return ""
    gap = next((g.value for g in measured if g.tensor == m.tensor and g.metric == "principal_gap"), None)
    return f"degenerate gap at k ({gap:.1g})" if gap is not None and gap < DEGENERATE_GAP else ""
