"""Measurements against a check: the decision, in one place. What cannot be judged is never green."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from ckptaudit.checks import Check, Severity
from ckptaudit.metrics import PAIR_FACTS, Kind, Measurement
from ckptaudit.pairing import ModelPair

Outcome = Literal["passed", "failed", "waived", "skipped", "error"]
"""`waived` is a broken claim that a waiver in the configuration forgives."""

DEGENERATE_GAP = 0.01
"""Below this relative gap at k the top-k subspace is as good as arbitrary, and an angle to it says little."""


class Ranked(msgspec.Struct, frozen=True):
    """One tensor's value, for the list of the worst."""

    tensor: str
    value: float
    remark: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A check's decision about a subject, with what a reader needs to believe it."""

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
    released: float | None = None
    released_limit: float | None = None

    @property
    def closes(self) -> bool:
        """Whether it keeps the gate shut; a broken claim that only warns does not."""
        return self.outcome == "error" or (self.outcome == "failed" and self.severity == "gate")


def judge(check: Check, subject: str, tuned: str, measured: Sequence[Measurement], unit: str = "") -> Verdict:
    """Decide from every measurement of the subject's tensors; `measured` may hold other metrics too."""
    own = [m for m in measured if m.metric == check.metric]
    if not own:
        return _undecided(check, subject, tuned, "error", "the check's roles select nothing here")
    kept, blind = _guarded(check, own, measured)
    if not kept and not blind:
        return _undecided(check, subject, tuned, "skipped", _guard_reason(check))
    bad = blind or [m for m in kept if m.value is None or not math.isfinite(m.value)]
    if bad:
        reason = f"{_cause(bad[0], measured)}: {check.metric} of {bad[0].tensor} has no value"
        return _undecided(check, subject, tuned, "error", reason, worst=bad[0].tensor)
    ranked = sorted(kept, key=lambda m: check.margin(_number(m)))
    value = _aggregate(check, ranked)
    return Verdict(
        tuned=tuned,
        check=check.id,
        subject=subject,
        # `not margin >= 0` rather than `margin < 0`: a NaN must never pass.
        outcome="failed" if not check.margin(value) >= 0 else "passed",
        worst=ranked[0].tensor,
        value=value,
        kind=_kind(ranked, check),
        limit=check.limit,
        source=check.source,
        metric=check.metric,
        sign=check.sign,
        severity=check.severity,
        ranking=tuple(Ranked(m.tensor, _number(m), _remark(m, measured)) for m in ranked[:6]),
    )


def judge_pair(check: Check, subject: str, tuned: str, pair: ModelPair) -> Verdict:
    """Decide a check about the pair's headers: how many findings against how many allowed."""
    findings = PAIR_FACTS[check.metric].findings(pair)
    value = float(len(findings))
    return Verdict(
        tuned=tuned,
        check=check.id,
        subject=subject,
        outcome="failed" if not check.margin(value) >= 0 else "passed",
        worst=findings[0].partition(":")[0] if findings else None,
        value=value,
        kind="exact",
        limit=check.limit,
        source=check.source,
        metric=check.metric,
        sign=check.sign,
        severity=check.severity,
        reason="; ".join(findings[:8]),
    )


def undecidable(check: Check, subject: str, tuned: str, reason: str) -> Verdict:
    """The verdict of a check that something outside its claim kept from being judged."""
    return _undecided(check, subject, tuned, "error", reason)


def skipped(check: Check, subject: str, tuned: str, reason: str) -> Verdict:
    """The verdict of a check that has nothing here to judge by, and is right to have nothing."""
    return _undecided(check, subject, tuned, "skipped", reason)


def _undecided(
    check: Check, subject: str, tuned: str, outcome: Outcome, reason: str, worst: str | None = None
) -> Verdict:
    return Verdict(
        tuned=tuned,
        check=check.id,
        subject=subject,
        outcome=outcome,
        worst=worst,
        value=None,
        kind=None,
        limit=check.limit,
        source=check.source,
        metric=check.metric,
        sign=check.sign,
        severity=check.severity,
        reason=reason,
    )


def _number(m: Measurement) -> float:
    assert m.value is not None  # judge has set aside what could not be computed
    return m.value


def _guarded(
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


def _remark(m: Measurement, measured: Sequence[Measurement]) -> str:
    """A word beside an angle whose subspace is ill-defined."""
    if not m.metric.startswith("principal_angle"):
        return ""
    gap = next((g.value for g in measured if g.tensor == m.tensor and g.metric == "principal_gap"), None)
    return f"degenerate gap at k ({gap:.1g})" if gap is not None and gap < DEGENERATE_GAP else ""
