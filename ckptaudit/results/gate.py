"""The answer of the gate, and the order in which verdicts deserve to be read: one definition for every report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ckptaudit.judging.verdict import NO_SUCH_WEIGHTS, Outcome, Verdict, times_over
from ckptaudit.metrics.descriptions import scope_of

GRAVITY: tuple[Outcome, ...] = ("failed", "error", "waived", "passed", "skipped")
"""Outcomes, the gravest first."""

JUDGED = ("passed", "failed", "waived")

NOTHING_JUDGED = "nothing was judged"

INTEGRITY = frozenset({"finite", "aligned", "same-shapes", "same-dtypes", "actually-changed"})
"""The checks that every profile has beside its own, by id."""

ONLY_INTEGRITY = "nothing but integrity was judged: every other check was skipped"
"""Why the gate stays closed where none of the checks was judged that a profile is asked for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether the gate is open; if not, the verdicts that keep it shut, gravest first, or else the cause."""

    closing: tuple[Verdict, ...]
    cause: str = ""

    @property
    def is_open(self) -> bool:
        """Whether the release may go out."""
        return not self.closing and not self.cause


def answer(verdicts: Sequence[Verdict]) -> Answer:
    """The gate's answer: open where something was judged, and nothing that closes it failed or went unjudged.

    A check that closes the gate and was skipped everywhere has gone unjudged, unless the model has no such weights
    or it asks for what not every trainer logs. Integrity alone opens no gate where more was asked for.
    """
    closing = tuple(sorted((v for v in verdicts if v.closes), key=gravity))
    if closing:
        return Answer(closing)
    if not any(v.outcome in JUDGED for v in verdicts):
        return Answer((), NOTHING_JUDGED)
    return Answer((), "; ".join(_unjudged(verdicts)) or _nothing_beyond_integrity(verdicts))


def _nothing_beyond_integrity(verdicts: Sequence[Verdict]) -> str:
    others = [v.outcome for v in verdicts if v.check not in INTEGRITY]
    return ONLY_INTEGRITY if others and all(outcome == "skipped" for outcome in others) else ""


def _unjudged(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for (_, check), of_check in by_check(verdicts).items():
        first = of_check[0]
        absent = all(v.reason.startswith(NO_SUCH_WEIGHTS) for v in of_check)
        logged = scope_of(first.metric) in ("rollouts", "probes")
        if first.severity == "gate" and not (absent or logged) and all(v.outcome == "skipped" for v in of_check):
            yield f"{check} was not judged ({first.reason})"


def gravity(verdict: Verdict) -> tuple[bool, int, float, float]:
    """A sort key, gravest first: what closes the gate, then outcome, then factor beyond the limit, then room."""
    rank = GRAVITY.index(verdict.outcome)
    if verdict.value is None:
        return (not verdict.closes, rank, 0.0, 0.0)
    limit = verdict.effective_limit
    room = limit - verdict.value if verdict.sign == "<=" else verdict.value - limit
    beyond = times_over(verdict.value, limit, verdict.sign)
    return (not verdict.closes, rank, -beyond, room if math.isfinite(room) else 0.0)


def gravest(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict that tells most about a group."""
    return min(verdicts, key=gravity)


def by_check(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], list[Verdict]]:
    """Verdicts by run and check, in order."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict.tuned, verdict.check), []).append(verdict)
    return groups
