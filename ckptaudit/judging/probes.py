"""Deciding checks of behavior: broken by an interval past the limit, unknown where it is too wide."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Protocol

from ckptaudit.behavior.decisions import Decision, decide
from ckptaudit.behavior.sets import EVERY_PROBE, set_of_subject
from ckptaudit.behavior.statistics import Estimate
from ckptaudit.judging.checks import Check
from ckptaudit.judging.limits import Limit, Limits
from ckptaudit.judging.outcomes import outcome_of, undecided
from ckptaudit.judging.verdict import Outcome, Ranked, Verdict
from ckptaudit.metrics import Measurement

SHOWN = 6
"""How many probe sets a verdict ranks."""

SHARE = 0.5
"""The tolerance, as a share of the limit, of a check that states none."""


def decide_probes(check: Check, subject: str, tuned: str, measured: Sequence[Measurement], limit: Limit) -> Verdict:
    """Decide from the readings of a metric, one for each probe set or one for all probes.

    A set breaks the limit when its interval lies past it. Where an interval lies across the limit and is wider than
    the tolerance, the claim cannot be judged, and the reason says about how many more probes would do. Nor can it
    where the base leaves no value possible that would break it; then it is skipped. A check that warns is skipped
    wherever it cannot be judged; where a model could not be run, it cannot be judged whatever it is.
    """
    own = judged_sets(check, measured)
    valued = [m for m in own if not _why_not(check, m, limit.value)]
    broken = [m for m in valued if is_broken(check, m, limit.value)]
    unclear = [m for m in valued if _decision(check, m, limit.value).outcome == "cannot tell"]
    if not broken and (unclear or not valued):
        unrun = any(m.tensor == subject and m.value is None and not m.samples for m in measured)
        # There was nothing to lose, which is no reason to keep a gate closed.
        is_vacuous = not unclear and any(m.value is not None for m in own)
        outcome: Outcome = "error" if unrun or (check.severity == "gate" and not is_vacuous) else "skipped"
        return undecided(check, subject, tuned, outcome, _why(check, own, measured, unclear, limit), Limits(limit))
    ranked = sorted(broken or valued, key=lambda m: check.margin(_number(m), limit.value))
    return outcome_of(
        check,
        subject,
        tuned,
        limit,
        "failed" if broken else "passed",
        worst=ranked[0].tensor,
        value=ranked[0].value,
        kind="exact",
        method=ranked[0].method,
        reason="; ".join(_sentences(check, own, broken, ranked[0], limit)),
        ranking=tuple(Ranked(m.tensor, _number(m), _beside(m)) for m in ranked[:SHOWN]),
    )


def judged_sets(check: Check, measured: Sequence[Measurement]) -> list[Measurement]:
    """The readings that a check is about."""
    if check.per == "probes":
        return [m for m in measured if m.tensor == EVERY_PROBE]
    named = ((m, set_of_subject(m.tensor)) for m in measured)
    return [m for m, name in named if name is not None and is_about_set(check, name)]


class NamesSets(Protocol):
    """A check, or its record."""

    @property
    def sets(self) -> tuple[str, ...]:
        """Globs of probe sets; with `!` in front those that are left out."""
        ...


def is_about_set(check: NamesSets, name: str) -> bool:
    """Whether a probe set is among those that a check names."""
    wanted = [glob for glob in check.sets if not glob.startswith("!")]
    left_out = [glob[1:] for glob in check.sets if glob.startswith("!")]
    admitted = not wanted or any(fnmatchcase(name, glob) for glob in wanted)
    return admitted and not any(fnmatchcase(name, glob) for glob in left_out)


def broken_sets(check: Check, measured: Sequence[Measurement], limit: Limit) -> frozenset[str]:
    """The probe sets that break the limit, or "probes"."""
    own = judged_sets(check, measured)
    return frozenset(m.tensor for m in own if m.value is not None and is_broken(check, m, limit.value))


def is_broken(check: Check, m: Measurement, limit: float) -> bool:
    """Whether the complete interval of a value lies past the limit."""
    return _decision(check, m, limit).outcome == "broken"


def tolerance_of(check: Check, limit: float) -> float:
    """How wide an interval across the limit may be."""
    return SHARE * abs(limit) if check.tolerance is None else check.tolerance


def _decision(check: Check, m: Measurement, limit: float) -> Decision:
    value = _number(m)
    low, high = (value if end is None else end for end in (m.low, m.high))
    estimate = Estimate(value, low, high, m.samples or 0, m.method)
    ends = {"at_most": limit} if check.at_most is not None else {"at_least": limit}
    return decide(estimate, **ends, tolerance=tolerance_of(check, limit) or None)


def _why(
    check: Check,
    own: Sequence[Measurement],
    measured: Sequence[Measurement],
    unclear: Sequence[Measurement],
    limit: Limit,
) -> str:
    if unclear:
        decisions = [(m, _decision(check, m, limit.value)) for m in unclear]
        widest, decision = max(decisions, key=lambda pair: pair[1].more or math.inf)
        ends = f"between {widest.low:.3g} and {widest.high:.3g}"
        return f"{widest.tensor} has {_number(widest):.3g}, {ends}, across the limit: {decision.sentence}"
    remarks = (m.remark for m in measured if m.value is None)
    reasons = filter(None, (*(_why_not(check, m, limit.value) for m in own), *remarks))
    return next(reasons, f"no probe of these sets says anything of {check.metric}")


def _why_not(check: Check, m: Measurement, limit: float) -> str:
    """Why a reading can be held against no limit, or not against this one; empty where it can."""
    if m.value is None:
        return m.remark or "no value"
    if m.reach is None or not (m.reach.most <= limit if check.at_most is not None else m.reach.least >= limit):
        return ""
    return f"no tuned model could break the limit: {m.reach.base}"


def _sentences(
    check: Check, own: Sequence[Measurement], broken: Sequence[Measurement], worst: Measurement, limit: Limit
) -> Iterator[str]:
    if broken:
        where = f"{worst.tensor}, one of {len(broken)} sets past the limit" if len(broken) > 1 else worst.tensor
        yield f"at {where}{f': most by probes {worst.worst}' if worst.worst else ''}"
    unknown = [why for m in own if (why := _why_not(check, m, limit.value))]
    if unknown:
        yield f"{len(unknown)} of {len(own)} sets could not be judged ({unknown[0]})"


def _number(m: Measurement) -> float:
    assert m.value is not None  # those without a value have been set apart
    return m.value


def _beside(m: Measurement) -> str:
    interval = f"{m.low:.4g} to {m.high:.4g}" if m.low is not None and m.high is not None else ""
    samples = f"{m.samples:,} probes" if m.samples else ""
    return "; ".join(filter(None, (interval, samples, m.worst, m.remark)))
