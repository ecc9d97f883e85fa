"""How things look, in every report alike: words, symbols and colours of outcomes, numbers, margins, shortening."""

from __future__ import annotations

from collections.abc import Sequence

from ckptaudit.judging.verdict import Outcome, Verdict, times_over
from ckptaudit.results.records import AuditResult

WORDS: dict[Outcome, str] = {
    "failed": "broken",
    "error": "cannot judge",
    "waived": "waived",
    "passed": "holds",
    "skipped": "skipped",
}
SYMBOLS: dict[Outcome, str] = {"failed": "✕", "error": "!", "waived": "~", "passed": "✓", "skipped": "–"}
COLOURS: dict[Outcome, str] = {
    "failed": "bold red",
    "error": "bold magenta",
    "waived": "yellow",
    "passed": "green",
    "skipped": "yellow",
}
WARNS = "yellow"
"""The colour of a broken claim that does not close the gate."""


def word(verdict: Verdict) -> str:
    """The outcome in a word or two; a broken claim that does not close the gate says so."""
    only_warns = verdict.outcome == "failed" and not verdict.closes
    if only_warns and verdict.severity == "info":
        return "noted"
    return f"broken ({verdict.severity})" if only_warns else WORDS[verdict.outcome]


def open_words(result: AuditResult) -> str:
    """What an open gate is open for: a result of rollouts alone may not be read as one about weights."""
    return "gate open" if result.has_pair else "gate open for the rollouts alone: no weights were judged"


def loud_word(verdict: Verdict) -> str:
    """The same, in capitals where it closes the gate."""
    return word(verdict).upper() if verdict.closes else word(verdict)


def number(value: float) -> str:
    """Four significant digits; whole counts in full."""
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"


def bound_mark(kind: str | None, signs: tuple[str, str] = ("<= ", ">= ")) -> str:
    """The mark before a value that is a bound."""
    return {"upper_bound": signs[0], "lower_bound": signs[1]}.get(kind or "", "")


def share(same: int, total: int) -> str:
    """`3/28`, how many of a check's verdicts ended so; empty where there is one."""
    return "" if total == 1 else f"{same}/{total}"


def margin(value: float, limit: float, sign: str) -> str:
    """`x2.1 over`, `x3.4 inside`, `x1.5 under`; a difference where a factor means nothing, as at a limit of 0."""
    if value == limit:
        return "at limit"
    beyond = "over" if sign == "<=" else "under"
    where = beyond if times_over(value, limit, sign) > 1 else "inside"
    if value > 0 and limit > 0:
        return f"x{_factor(max(value, limit) / min(value, limit))} {where}"
    return f"{abs(value - limit):.3g} {where}"


def margin_of(verdict: Verdict) -> str:
    """How far a verdict's value lies inside or beyond its effective limit; empty where it has none."""
    return "" if verdict.value is None else margin(verdict.value, verdict.effective_limit, verdict.sign)


def shortened(text: str, width: int) -> str:
    """The text, its middle left out if it does not fit."""
    if len(text) <= width:
        return text
    tail = (width - 2) * 2 // 3
    return f"{text[: width - 2 - tail]}..{text[len(text) - tail :]}"


def first_few(names: Sequence[str], most: int = 6) -> str:
    """The first few names and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _factor(ratio: float) -> str:
    """Two significant digits, more where these would read as 1."""
    if ratio >= 9.95:
        return f"{ratio:.0f}" if ratio < 1e4 else f"{ratio:.1e}".replace("e+0", "e").replace("e+", "e")
    return next((text for digits in (2, 3, 4, 5) if float(text := f"{ratio:.{digits}g}") > 1), "1")
