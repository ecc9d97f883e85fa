"""Deciding checks of rollouts: an estimate breaks its limit only where its whole interval lies beyond it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ckptaudit.judging.checks import Check
from ckptaudit.judging.limits import Limit, Limits
from ckptaudit.judging.outcomes import outcome_of, undecided
from ckptaudit.judging.verdict import Outcome, OverSteps, Ranked, Verdict
from ckptaudit.metrics import Measurement
from ckptaudit.rollouts.readings import NONE_HERE

RUN = "run"
"""What a reading over all steps is about; every other is about one step."""

SHOWN = 6
"""How many steps a verdict ranks."""


def decide_rollouts(
    check: Check, subject: str, tuned: str, measured: Sequence[Measurement], limit: Limit
) -> Verdict:
    """Decide from the readings of a metric, one for each step or one for the run.

    A step breaks the limit when its interval from `low` to `high` lies beyond it. Steps without a value are left
    out. Where no step has one, a check that gates cannot be judged, and one that warns is skipped; both are where
    the run has nothing of the kind, such as groups. Where the log could not be read, neither can be judged.
    """
    own = [m for m in measured if (m.tensor == RUN) == (check.per == "run")]
    valued = [m for m in own if m.value is not None]
    if not valued:
        unread = any(m.tensor == subject for m in measured)
        remark = next((m.remark for m in (*own, *measured) if m.remark), f"the log says nothing of {check.metric}")
        keeps_shut = check.severity == "gate" and not remark.startswith(NONE_HERE)
        outcome: Outcome = "error" if unread or keeps_shut else "skipped"
        return undecided(check, subject, tuned, outcome, remark, Limits(limit))
    broken = [m for m in valued if is_broken(check, m, limit.value)]
    ranked = sorted(broken or valued, key=lambda m: _room(check, m, limit.value, broken=bool(broken)))
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
        reason="; ".join(_sentences(check, own, valued, broken, ranked[0], limit.value)),
        ranking=tuple(Ranked(m.tensor, _number(m), _beside(m)) for m in ranked[:SHOWN]),
        over_steps=_over_steps(valued, broken) if check.per == "step" else None,
    )


def _over_steps(valued: Sequence[Measurement], broken: Sequence[Measurement]) -> OverSteps:
    return OverSteps(len(valued), len(broken), broken[0].tensor if broken else "")


def broken_steps(check: Check, measured: Sequence[Measurement], limit: Limit) -> frozenset[str]:
    """The steps that break the limit, or "run"."""
    own = (m for m in measured if (m.tensor == RUN) == (check.per == "run") and m.value is not None)
    return frozenset(m.tensor for m in own if is_broken(check, m, limit.value))


def is_broken(check: Check, m: Measurement, limit: float) -> bool:
    """Whether the whole interval of a value lies beyond the limit; a NaN never holds."""
    return not check.margin(_end(check, m, good=True), limit) >= 0


def _end(check: Check, m: Measurement, *, good: bool) -> float:
    """The end of the interval that is good, or bad, for the check; the value itself where there is none."""
    end = m.low if (check.at_most is not None) is good else m.high
    return _number(m) if end is None else end


def _number(m: Measurement) -> float:
    assert m.value is not None  # those without a value have been set apart
    return m.value


def _room(check: Check, m: Measurement, limit: float, *, broken: bool) -> float:
    return check.margin(_end(check, m, good=True) if broken else _number(m), limit)


def _sentences(
    check: Check,
    own: Sequence[Measurement],
    valued: Sequence[Measurement],
    broken: Sequence[Measurement],
    worst: Measurement,
    limit: float,
) -> Iterator[str]:
    if broken and check.per == "step":
        yield f"first at {broken[0].tensor}, beyond the limit at {len(broken)} of {len(valued)} steps"
        yield f"worst at {worst.tensor}{f': {worst.worst}' if worst.worst else ''}"
    elif broken and worst.worst:
        yield f"worst at {worst.worst}"
    wide = [m for m in valued if m not in broken and not check.margin(_end(check, m, good=False), limit) >= 0]
    if wide:
        where = wide[0].tensor if check.per == "step" else "the run"
        more = f" and {len(wide) - 1} more" if len(wide) > 1 else ""
        yield f"at {where}{more} the interval lies across the limit: too few samples to tell, which is no failure"
    unknown = [m for m in own if m.value is None]
    if unknown:
        yield f"{len(unknown)} of {len(own)} steps could not be judged ({unknown[0].remark})"


def _beside(m: Measurement) -> str:
    """Interval, sample size, samples and remark, for the list of the worst."""
    interval = f"{m.low:.4g} to {m.high:.4g}" if m.low is not None and m.high is not None else ""
    samples = f"of {m.samples:,}" if m.samples else ""
    return "; ".join(filter(None, (interval, samples, m.worst, m.remark)))
