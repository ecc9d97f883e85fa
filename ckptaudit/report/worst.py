"""What deserves to be read first: verdicts in the order of how badly they ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ckptaudit.judging.verdict import Verdict, times_over
from ckptaudit.results.records import AuditResult

GRAVITY = ("error", "failed", "waived", "passed", "skipped")


def by_check(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], list[Verdict]]:
    """Verdicts by run and check, in order."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict.tuned, verdict.check), []).append(verdict)
    return groups


def worst_of(verdicts: Sequence[Verdict]) -> Verdict:
    """The one that tells most about a group."""
    return min(verdicts, key=severity)


def closing(result: AuditResult) -> list[Verdict]:
    """The verdicts that keep the gate shut, worst first."""
    return sorted((v for v in result.verdicts if v.closes), key=severity)


def severity(verdict: Verdict) -> tuple[bool, int, float, float]:
    """A sort key, worst first: what closes the gate, then outcome, then factor beyond the limit."""
    rank = GRAVITY.index(verdict.outcome)
    if verdict.value is None:
        return (not verdict.closes, rank, 0.0, 0.0)
    beyond = times_over(verdict.value, verdict.effective_limit, verdict.sign)
    room = (
        verdict.effective_limit - verdict.value if verdict.sign == "<=" else verdict.value - verdict.effective_limit
    )
    return (not verdict.closes, rank, -beyond, room if math.isfinite(room) else 0.0)
