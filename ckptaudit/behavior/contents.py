"""What a file of probes has evidence for: how many probes each question about a model rests on, and how finely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ckptaudit.behavior.probe import KINDS, Probe
from ckptaudit.behavior.statistics import wilson

PAIRS = ("preference",)
SCORED = ("text", "completion", "preference", "labelled", "ranking", "choice")


def _prompted(probe: Probe) -> bool:
    return probe.kind != "text"


QUESTIONS: tuple[tuple[str, Callable[[Probe], bool]], ...] = (
    ("KL divergence and likelihood on given texts", lambda p: p.kind in SCORED),
    ("answers: shifted tokens, length, diversity", _prompted),
    ("ranking of pairs, chosen likelihood, rewards", lambda p: p.kind in PAIRS),
    ("idealised ranking accuracy (raters)", lambda p: p.raters is not None),
    ("discretion (principles)", lambda p: bool(p.principles)),
    ("wanted and unwanted completions", lambda p: p.kind == "labelled"),
    ("rank correlation", lambda p: p.kind == "ranking"),
    ("multiple choice", lambda p: p.kind == "choice"),
    ("exact match (reference)", lambda p: p.reference is not None),
    ("refusal", lambda p: p.safety == "unsafe" and _prompted(p)),
    ("over-refusal", lambda p: p.safety == "safe" and _prompted(p)),
    ("prefill attack", lambda p: bool(p.prefill)),
)
"""What can be asked, and of which probes."""


@dataclass(frozen=True, slots=True)
class Basis:
    """What one question rests on: `margin` is half Wilson's 95 % interval of a share of one half."""

    question: str
    probes: int
    margin: float | None


def bases(probes: Sequence[Probe]) -> list[Basis]:
    """Every question with how many probes can be asked it."""
    counts = [(question, sum(map(suits, probes))) for question, suits in QUESTIONS]
    return [Basis(question, count, _margin(count)) for question, count in counts]


def counted(probes: Sequence[Probe]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """How many probes there are of each kind, in each set, and of each safety."""
    kinds, sets = Counter(p.kind for p in probes), Counter(p.set or "(none)" for p in probes)
    ordered = Counter({str(kind): kinds[kind] for kind in KINDS if kinds[kind]})
    return ordered, sets, Counter(str(p.safety) for p in probes if p.safety)


def _margin(count: int) -> float | None:
    if not count:
        return None
    interval = wilson(count / 2, count)
    return (interval.high - interval.low) / 2
