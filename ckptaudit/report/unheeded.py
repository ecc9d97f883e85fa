"""Broken claims that do not close the gate, one line each: those that only warn, notes, those that are waived."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ckptaudit.errors import printable
from ckptaudit.judging.verdict import Verdict
from ckptaudit.report.escaping import log_line
from ckptaudit.report.failure import compared

SHOWN = 10
"""How many of a kind get a line of their own."""

FINDINGS_SHOWN = 4
"""How many findings stand in one line."""


def unheeded(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """The lines for the end of the terminal output, warnings first."""
    for severity in ("warn", "info"):
        theirs = [v for v in verdicts if v.outcome == "failed" and v.severity == severity]
        label = "warning" if severity == "warn" else "note"
        yield from _lines(label, [f"{_name(v)}: {compared(v)}; {_what(v)}" for v in theirs])
    waived = [v for v in verdicts if v.outcome == "waived"]
    yield from _lines("waived", [f"{_name(v)}: {compared(v)}; {printable(v.waiver)}" for v in waived])


def _what(verdict: Verdict) -> str:
    if verdict.findings:
        more = len(verdict.findings) - FINDINGS_SHOWN
        named = "; ".join(map(str, verdict.findings[:FINDINGS_SHOWN]))
        return f"{named}{f'; and {more} more' if more > 0 else ''}"
    return f"worst {printable(verdict.worst or '-')}"


def _name(verdict: Verdict) -> str:
    return f"{verdict.check}[{printable(verdict.subject)}]"


def _lines(label: str, texts: list[str]) -> Iterator[str]:
    yield from (log_line(f"{label}: {text}") for text in texts[:SHOWN])
    if len(texts) > SHOWN:
        yield f"{label}: and {len(texts) - SHOWN} more"
