"""What deserves to be read first: verdicts in the order of how badly they ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ckptaudit.judging.judge import times_over
from ckptaudit.results.records import AuditResult, VerdictRow

GRAVITY = ("error", "failed", "waived", "passed", "skipped")


def by_check(verdicts: Iterable[VerdictRow]) -> dict[tuple[str, str], list[VerdictRow]]:
    """Verdicts by run and check, in order."""
    groups: dict[tuple[str, str], list[VerdictRow]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict.tuned, verdict.check), []).append(verdict)
    return groups


def worst_of(verdicts: Sequence[VerdictRow]) -> VerdictRow:
    """The one that tells most about a group."""
    return min(verdicts, key=severity)


def closing(result: AuditResult) -> list[VerdictRow]:
    """The verdicts that keep the gate shut, worst first."""
    return sorted((v for v in result.verdicts if v.closes), key=severity)


def severity(verdict: VerdictRow) -> tuple[bool, int, float, float]:
    """A sort key, worst first: what closes the gate, then outcome, then factor beyond the limit."""
    rank = GRAVITY.index(verdict.outcome)
    if verdict.value is None:
        return (not verdict.closes, rank, 0.0, 0.0)
    beyond = times_over(verdict.value, verdict.bar, verdict.sign)
    room = verdict.bar - verdict.value if verdict.sign == "<=" else verdict.value - verdict.bar
    return (not verdict.closes, rank, -beyond, room if math.isfinite(room) else 0.0)
