"""How things look, in every report alike: words, symbols and colours of outcomes, numbers, margins, shortening."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ckptaudit.judging.verdict import Outcome, Verdict, times_over
from ckptaudit.metrics.descriptions import description_of
from ckptaudit.metrics.scales import is_count
from ckptaudit.results.records import AuditResult

WORDS: dict[Outcome, str] = {
    "failed": "FAIL",
    "error": "ERROR",
    "waived": "WAIVED",
    "passed": "PASS",
    "skipped": "SKIP",
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


APART, JOINTS = ": ", "./_-"
"""What stands between the names of different things, and what joins the words of one."""

MOST = 2 / 3
"""A name is cut by letters where its last words alone would leave more of the room empty."""

_SINGULAR = {" matrices": " matrix"}


def word(verdict: Verdict) -> str:
    """The outcome in pytest's words; a broken claim that does not close the gate is a warning or a note."""
    if verdict.outcome == "failed" and not verdict.closes:
        return "NOTE" if verdict.severity == "info" else "WARN"
    return WORDS[verdict.outcome]


def colour_of(verdict: Verdict) -> str:
    """The colour of its outcome."""
    return WARNS if verdict.outcome == "failed" and not verdict.closes else COLOURS[verdict.outcome]


def open_words(result: AuditResult) -> str:
    """What an open gate is open for: a result of rollouts alone may not be read as one about weights."""
    return "gate open" if result.has_pair else "gate open for the rollouts alone: no weights were judged"


def number(value: float) -> str:
    """Four significant digits; whole counts in full; `nan` and `inf` as they are."""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def bound_mark(kind: str | None, signs: tuple[str, str] = ("<= ", ">= ")) -> str:
    """The mark before a value that is a bound."""
    return {"upper_bound": signs[0], "lower_bound": signs[1]}.get(kind or "", "")


def share(same: int, total: int) -> str:
    """`3/28`, how many of a check's verdicts ended so; empty where there is one."""
    return "" if total == 1 else f"{same}/{total}"


def margin(value: float, limit: float, sign: str) -> str:
    """`21x the limit`, `13x below the minimum`, `3.4x inside`; a difference where a factor means nothing.

    A value without a finite distance from its limit is `infinite` or `not a number`.
    """
    if value == limit:
        return "at the limit"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    broken = times_over(value, limit, sign) > 1
    if value > 0 and limit > 0:
        ratio = f"{_factor(max(value, limit) / min(value, limit))}x"
        beyond = "the limit" if sign == "<=" else "below the minimum"
        return f"{ratio} {beyond if broken else 'inside'}"
    beyond = "above the limit" if sign == "<=" else "below the minimum"
    return f"{abs(value - limit):.3g} {beyond if broken else 'inside'}"


def margin_of(verdict: Verdict) -> str:
    """How far a value lies inside or beyond its effective limit; empty where it has none, and for counts.

    An estimate beyond the limit passes where its interval reaches back to it: a factor would read as a failure.
    """
    if verdict.value is None or is_count(verdict.metric):
        return ""
    if verdict.outcome == "passed" and times_over(verdict.value, verdict.effective_limit, verdict.sign) > 1:
        return "interval reaches the limit"
    return margin(verdict.value, verdict.effective_limit, verdict.sign)


def beyond(verdict: Verdict) -> str:
    """How far beyond its limit a verdict lies, in a phrase for headlines: its margin, or what was counted."""
    if verdict.value is None:
        return "which cannot be judged"
    return margin_of(verdict) or counted(verdict)


def counted(verdict: Verdict) -> str:
    """`3 findings, limit <= 0`: a count beside how many there may be."""
    known = description_of(verdict.metric)
    unit = "" if known is None or known.unit == "1" else f" {known.unit}"
    if verdict.value == 1:
        unit = _SINGULAR.get(unit, f"{unit[:-3]}y" if unit.endswith("ies") else unit.removesuffix("s"))
    return f"{number(verdict.value or 0.0)}{unit}, limit {verdict.sign} {number(verdict.effective_limit)}"


def unit_of(metric: str) -> str:
    """The unit in words; `dimensionless` for a pure number, empty for a metric that this release does not know."""
    known = description_of(metric)
    if known is None:
        return ""
    return "dimensionless" if known.unit == "1" else known.unit


def percent(share: float) -> str:
    """A share as `6.6 %`."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.3g} %"


def shortened(name: str, width: int) -> str:
    """A name, cut on the left if it does not fit: its end says most.

    It is cut where one of its words begins, if that uses most of the room. A key of a file or the last of several
    names stands whole without the dots where it fits only so.
    """
    if len(name) <= width:
        return name
    if width <= 2:
        return name[-width:]
    for start in range(len(name) - width, len(name) - math.ceil(MOST * width) + 1):
        before, tail = name[start - 1], name[start:]
        if before in APART or (before in JOINTS and len(tail) + 2 <= width):
            return f"..{tail}" if len(tail) + 2 <= width else tail
    return f"..{name[len(name) - width + 2 :]}"


def clipped(sentence: str, width: int) -> str:
    """A sentence, its end left out if it does not fit."""
    return sentence if len(sentence) <= width else f"{sentence[: width - 3]}..."


def first_few(names: Sequence[str], most: int = 6) -> str:
    """The first few names and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _factor(ratio: float) -> str:
    """Two significant digits, more where these would read as 1."""
    if ratio >= 9.95:
        return f"{ratio:.0f}" if ratio < 1e4 else f"{ratio:.1e}".replace("e+0", "e").replace("e+", "e")
    return next((text for digits in (2, 3, 4, 5) if float(text := f"{ratio:.{digits}g}") > 1), "1")
