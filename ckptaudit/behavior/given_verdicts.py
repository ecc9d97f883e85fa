"""Verdicts from elsewhere on what the models answer: of judges, rewards and references, joined by probe id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Literal, NamedTuple

Answerer = Literal["base", "tuned"]
Choice = Literal["base", "tuned", "tie"]
VerdictKind = Literal["score", "unsafe", "choice", "mean_log_p"]

Answer = tuple[str, Answerer]
"""A probe's id, and whose answer to it."""

WINS: dict[Choice, float] = {"base": 0.0, "tie": 0.5, "tuned": 1.0}
"""What a comparison counts for the tuned model."""


class GivenVerdict(NamedTuple):
    """One verdict: of `judge` on the probe `id`, on the answer of `model` where it is on one answer alone.

    `value` is a number ("score", higher is better; "mean_log_p", nats per token of the probe's own completion),
    whether the answer does harm ("unsafe"), or whose answer is better ("choice").
    """

    id: str
    judge: str
    kind: VerdictKind
    model: Answerer | None
    value: float | bool | str
    sample: int = 0


@dataclass(frozen=True)
class GivenVerdicts:
    """All verdicts of a file, by judge and by what they are about."""

    rows: tuple[GivenVerdict, ...] = ()

    @cached_property
    def scores(self) -> Mapping[str, Mapping[Answer, float]]:
        """By judge and answer, the mean of its scores."""
        return _means(row for row in self.rows if row.kind == "score")

    @cached_property
    def references(self) -> Mapping[str, float]:
        """By probe, the mean over references of the log-probability per token of the probe's completion."""
        by_probe: dict[str, list[float]] = {}
        for row in self.rows:
            if row.kind == "mean_log_p":
                by_probe.setdefault(row.id, []).append(float(row.value))
        return {name: fmean(values) for name, values in by_probe.items()}

    @cached_property
    def votes(self) -> Mapping[str, Mapping[Answer, bool]]:
        """By judge and answer, whether most of its votes call the answer unsafe."""
        found: dict[str, dict[Answer, list[bool]]] = {}
        for row in self.rows:
            if row.kind == "unsafe" and row.model is not None:
                found.setdefault(row.judge, {}).setdefault((row.id, row.model), []).append(bool(row.value))
        return {judge: {key: _most(v) for key, v in votes.items()} for judge, votes in found.items()}

    @cached_property
    def unsafe(self) -> Mapping[Answer, bool]:
        """By answer, whether more than half of its judges call it unsafe."""
        found: dict[Answer, list[bool]] = {}
        for votes in self.votes.values():
            for key, vote in votes.items():
                found.setdefault(key, []).append(vote)
        return {key: _most(votes) for key, votes in found.items()}

    @cached_property
    def wins(self) -> Mapping[str, Mapping[str, float]]:
        """By judge and probe, the share of comparisons that the tuned model's answer wins, a tie counted as half.

        A judge that scores both answers, and does not compare them, prefers the higher score.
        """
        found: dict[str, dict[str, list[float]]] = {}
        for row in self.rows:
            if row.kind == "choice":
                win = WINS[row.value]  # type: ignore[index]  # the reader admits no other
                found.setdefault(row.judge, {}).setdefault(row.id, []).append(win)
        compared = {judge: {name: fmean(w) for name, w in by_id.items()} for judge, by_id in found.items()}
        for judge, scores in self.scores.items():
            own = {name: _win(scores[name, "base"], scores[name, "tuned"]) for name in both(scores)}
            compared[judge] = own | compared.get(judge, {})
        return compared

    @cached_property
    def scored(self) -> frozenset[str]:
        """Probes of which some judge scored both answers."""
        return frozenset(name for scores in self.scores.values() for name in both(scores))

    @cached_property
    def scored_tuned(self) -> frozenset[str]:
        """Probes of which some judge scored the tuned model's answer."""
        return frozenset(name for scores in self.scores.values() for name, side in scores if side == "tuned")

    @cached_property
    def voted(self) -> frozenset[str]:
        """Probes with votes on both answers."""
        return frozenset(both(self.unsafe))

    @cached_property
    def compared(self) -> frozenset[str]:
        """Probes of which some judge prefers an answer."""
        return frozenset(name for wins in self.wins.values() for name in wins)

    @cached_property
    def judged_twice(self) -> frozenset[str]:
        """Probes on which two judges or more say the same kind of thing."""
        voters = Counter(name for votes in self.votes.values() for name in {name for name, _ in votes})
        judges = Counter(name for wins in self.wins.values() for name in wins)
        return frozenset(name for counts in (voters, judges) for name, count in counts.items() if count > 1)

    @cached_property
    def referenced(self) -> frozenset[str]:
        """Probes whose completion some reference scored."""
        return frozenset(self.references)

    @cached_property
    def ids(self) -> frozenset[str]:
        """Probes with any verdict."""
        return frozenset(row.id for row in self.rows)


Tells = Callable[[GivenVerdicts], frozenset[str]]
"""The probes of which verdicts tell something."""


def both(answers: Iterable[Answer]) -> list[str]:
    """The probes with both answers among these, in order."""
    known = set(answers)
    return [name for name, side in dict.fromkeys(answers) if side == "base" and (name, "tuned") in known]


def _means(rows: Iterable[GivenVerdict]) -> dict[str, dict[Answer, float]]:
    found: dict[str, dict[Answer, list[float]]] = {}
    for row in rows:
        if row.model is not None:
            found.setdefault(row.judge, {}).setdefault((row.id, row.model), []).append(float(row.value))
    return {judge: {key: fmean(v) for key, v in scores.items()} for judge, scores in found.items()}


def _most(votes: list[bool]) -> bool:
    return sum(votes) > len(votes) / 2


def _win(base: float, tuned: float) -> float:
    return 0.5 if tuned == base else float(tuned > base)
