"""A plan and its measurements to verdicts: the decision, in one place. What cannot be judged is never green."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from msgspec import structs

from ckptaudit.errors import Spelling, parameter, spelled
from ckptaudit.judging.checks import Check
from ckptaudit.judging.findings import decide_findings, found_in
from ckptaudit.judging.limits import Limit, Limits
from ckptaudit.judging.outcomes import decided, undecided
from ckptaudit.judging.plan import AuditPlan, PlannedVerdict
from ckptaudit.judging.probes import broken_sets, decide_probes
from ckptaudit.judging.reasons import damaged_base, doubt, guarded, without_value
from ckptaudit.judging.rollouts import broken_steps, decide_rollouts
from ckptaudit.judging.selection import selected
from ckptaudit.judging.verdict import NOTHING_SELECTED, Outcome, Ranked, Verdict
from ckptaudit.judging.waivers import forgive
from ckptaudit.measurement.jobs import Unit
from ckptaudit.measurement.rollouts import by_steps
from ckptaudit.metrics import Kind, Measurement

NOTHING = frozenset[str]()


class Measured(Protocol):
    """Measurements by unit of work."""

    def __getitem__(self, unit: Unit) -> tuple[Measurement, ...]:
        """Those of a unit that has been measured."""


def judge(plan: AuditPlan, measurements: Measured) -> tuple[Verdict, ...]:
    """Every verdict of the plan, in its order: a pure function of the two."""
    return tuple(verdict_of(planned, measurements) for planned in plan.verdicts)


def verdict_of(planned: PlannedVerdict, measurements: Measured) -> Verdict:
    """One verdict: decided, compared with the released run, and forgiven what waivers forgive."""
    rows = rows_of(planned, measurements)
    verdict = _compared(planned, rows, NOTHING)
    if verdict.outcome != "failed" or not planned.waivers:
        return verdict
    return forgive(
        verdict, planned.waivers, _broken(planned, rows), lambda excluded: _compared(planned, rows, excluded)
    )


def rows_of(planned: PlannedVerdict, measurements: Measured) -> list[Measurement]:
    """Every measurement that a verdict rests on, and other metrics of the same tensors."""
    check = planned.check
    found = [m for unit in planned.units for m in measurements[unit]]
    if check.scope == "rollouts":
        return list(by_steps(m for m in found if m.metric == check.metric))
    if check.scope not in ("matrix", "runs"):
        return [m for m in found if m.metric == check.metric]
    tensors = selected(check, planned.run.pair, planned.subject)
    names = {planned.subject} if check.per == "matrix" else {n for t in tensors for n in t.matrix_names()}
    if check.scope == "matrix":
        return [m for m in found if m.tensor in names]
    return [m for m in found if m.tensor in names and m.metric == check.metric and m.tuned == planned.run.path]


def respelled(verdict: Verdict, spelling: Spelling) -> Verdict:
    """The verdict with the parameters in its words written as a front end's users know them."""
    ranking = tuple(structs.replace(row, remark=spelled(row.remark, spelling)) for row in verdict.ranking)
    return structs.replace(verdict, reason=spelled(verdict.reason, spelling), ranking=ranking)


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


def decide(
    check: Check, subject: str, tuned: str, measured: Sequence[Measurement], limits: Limits | None = None
) -> Verdict:
    """Decide from every measurement of the subject's tensors; `measured` may hold other metrics too.

    Each tensor is held to its own limit, the one with the least room against it decides, and the
    verdict's limit is that one's.
    """
    limits = limits or Limits.own(check)
    own = [m for m in measured if m.metric == check.metric]
    if not own:
        return undecided(check, subject, tuned, "error", NOTHING_SELECTED, limits)
    damaged = damaged_base(own, measured)
    if damaged is not None:
        return undecided(check, subject, tuned, "error", damaged[1], limits, worst=damaged[0])
    kept, blind = admitted(check, own, measured)
    if not kept and not blind:
        return undecided(check, subject, tuned, "skipped", guarded(check), limits)
    bad = blind or [m for m in kept if m.value is None or not math.isfinite(m.value)]
    if bad:
        reason = f"{without_value(bad[0], measured)}: {check.metric} of {bad[0].tensor} has no value"
        return undecided(check, subject, tuned, "error", reason, limits, worst=bad[0].tensor)
    ranked = sorted(kept, key=lambda m: _room(check, _number(m), limits.of(m.tensor).value))
    computed, uncomputed = _computed(check, ranked, limits)
    if uncomputed and not any(_breaks(check, m, limits) for m in computed):
        reason = f"the bound on {uncomputed[0].tensor} lies beyond the limit and its number was not computed"
        return undecided(check, subject, tuned, "error", reason, limits, worst=uncomputed[0].tensor)
    # A failure rests on a number: what a bound leaves open stands behind all that is known.
    ranked = [*computed, *uncomputed]
    return decided(
        check,
        subject,
        tuned,
        _aggregate(check, ranked),
        limits.of(ranked[0].tensor),
        worst=ranked[0].tensor,
        kind=_kind(ranked, check),
        method=ranked[0].method,
        reason=_left_open(uncomputed) or (ranked[0].remark if check.judge_by == "worst" else ""),
        ranking=tuple(Ranked(m.tensor, _number(m), _remark(m, measured, check, limits)) for m in ranked[:6]),
        moved_limits=_others(limits, ranked),
    )


def decide_group(check: Check, subject: str, tuned: str, measured: Measurement, limit: Limit) -> Verdict:
    """Decide a check about several weights taken together, by their one number."""
    if measured.value is None or not math.isfinite(measured.value):
        reason = measured.remark or f"{check.metric} of {subject} has no value"
        return undecided(check, subject, tuned, "error", reason, Limits(limit), worst=measured.worst or None)
    return decided(
        check,
        subject,
        tuned,
        measured.value,
        limit,
        worst=measured.worst or subject,
        kind=measured.kind,
        method=measured.method,
        ranking=(Ranked(subject, measured.value, measured.remark),),
    )


def broken_tensors(check: Check, measured: Sequence[Measurement], limits: Limits) -> frozenset[str]:
    """The tensors to which a failure is due: those outside their limits; all of them, if summed or averaged."""
    kept, _ = admitted(check, [m for m in measured if m.metric == check.metric], measured)
    if check.judge_by != "worst":
        return frozenset(m.tensor for m in kept)
    return frozenset(m.tensor for m in kept if _breaks(check, m, limits))


def _compared(planned: PlannedVerdict, rows: list[Measurement], excluded: frozenset[str]) -> Verdict:
    """The verdict without the excluded tensors, beside the released run's if there is one."""
    verdict = _alone(planned, rows, excluded)
    released = planned.released
    if released is None or verdict.value is None:
        return verdict
    beside = structs.replace(verdict, released=released.value, released_limit=released.allowed)
    # What a bound decides was measured exactly wherever the bound passed what is allowed here.
    if planned.check.margin(verdict.value, released.allowed) >= 0 or verdict.kind != "exact":
        return beside
    if planned.check.scope == "rollouts" and not broken_steps(planned.check, rows, Limit(released.allowed)):
        return beside
    if planned.check.scope == "probes" and not broken_sets(planned.check, rows, Limit(released.allowed)):
        return beside
    reason = f"worse than the released {released.value:.4g} by more than {released.factor:g} times"
    return structs.replace(beside, outcome="failed", reason=reason)


def _alone(planned: PlannedVerdict, rows: list[Measurement], excluded: frozenset[str]) -> Verdict:
    check, limits = planned.check, planned.limits
    about = (check, planned.subject, planned.run.path)
    if planned.cannot or planned.skip:
        outcome: Outcome = "error" if planned.cannot else "skipped"
        return undecided(*about, outcome, planned.cannot or planned.skip, limits)
    if check.counts_findings:
        return decide_findings(*about, rows[0], limits, excluded)
    if check.scope == "rollouts":
        return decide_rollouts(*about, [m for m in rows if m.tensor not in excluded], limits.usual)
    if check.scope == "probes":
        return decide_probes(*about, [m for m in rows if m.tensor not in excluded], limits.usual)
    if check.scope == "group":
        tensors = selected(check, planned.run.pair, planned.subject)
        # No override names only some of these weights: any of them has the limit of all.
        return decide_group(*about, rows[0], limits.of(tensors[0].matrix_names()[0]))
    if check.scope == "runs" and not rows:
        return undecided(*about, "skipped", "no weight here has moved in a way that can be compared", limits)
    return decide(*about, [m for m in rows if m.tensor not in excluded], limits)


def _broken(planned: PlannedVerdict, rows: list[Measurement]) -> frozenset[str]:
    if planned.check.counts_findings:
        return found_in(rows)
    if planned.check.scope == "rollouts":
        return broken_steps(planned.check, rows, planned.limits.usual)
    if planned.check.scope == "probes":
        return broken_sets(planned.check, rows, planned.limits.usual)
    if planned.check.scope == "group":
        return NOTHING
    return broken_tensors(planned.check, rows, planned.limits)


def _room(check: Check, value: float, limit: float) -> tuple[float, float]:
    """How far inside its limit a value lies, as a share of the limit, so that different limits compare."""
    margin = check.margin(value, limit)
    share = margin / abs(limit) if limit else math.copysign(math.inf, margin) if margin else 0.0
    return share, margin


def _computed(
    check: Check, ranked: list[Measurement], limits: Limits
) -> tuple[list[Measurement], list[Measurement]]:
    """What is known well enough; and, apart, bounds beyond their limits, without which a number has decided."""
    if check.judge_by != "worst":
        return ranked, []
    is_open = [m.kind != "exact" and _breaks(check, m, limits) for m in ranked]
    apart = [m for m, is_apart in zip(ranked, is_open, strict=True) if is_apart]
    return [m for m, is_apart in zip(ranked, is_open, strict=True) if not is_apart], apart


def _breaks(check: Check, m: Measurement, limits: Limits) -> bool:
    return not check.margin(_number(m), limits.of(m.tensor).value) >= 0


def _left_open(uncomputed: list[Measurement]) -> str:
    """That other matrices may be worse, in words."""
    if not uncomputed:
        return ""
    others = "1 other matrix was" if len(uncomputed) == 1 else f"{len(uncomputed)} other matrices were"
    return f"decided by this number; {others} not computed and may be worse ({parameter('exact')} computes all)"


def _number(m: Measurement) -> float:
    assert m.value is not None  # those that could not be computed have been set apart
    return m.value


def _others(limits: Limits, ranked: list[Measurement]) -> dict[str, float]:
    """The limits of the tensors that are held to another than the deciding one's."""
    if not limits.moved:
        return {}
    deciding = limits.of(ranked[0].tensor).value
    return {m.tensor: own for m in ranked if (own := limits.of(m.tensor).value) != deciding}


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
    bound = {"exact": "", "upper_bound": "at most this", "lower_bound": "at least this"}[m.kind]
    return "; ".join(filter(None, (said, bound, m.remark, doubt(m, measured))))
