"""Broken claims that do not close the gate, one line each: those that only warn, those that are waived."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ckptaudit.errors import printable
from ckptaudit.judging.verdict import Verdict
from ckptaudit.report.escaping import log_line
from ckptaudit.report.failure import compared

SHOWN = 10
"""How many of a kind get a line of their own."""


def unheeded(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """The lines for the end of the terminal output, warnings first."""
    for severity in ("warn", "info"):
        theirs = [v for v in verdicts if v.outcome == "failed" and v.severity == severity]
        label = "warning" if severity == "warn" else severity
        yield from _lines(label, [f"{_name(v)}: {compared(v)}; worst {printable(v.worst or '-')}" for v in theirs])
    waived = [v for v in verdicts if v.outcome == "waived"]
    yield from _lines("waived", [f"{_name(v)}: {compared(v)}; {printable(v.waiver)}" for v in waived])


def _name(verdict: Verdict) -> str:
    return f"{verdict.check}[{printable(verdict.subject)}]"


def _lines(label: str, texts: list[str]) -> Iterator[str]:
    yield from (log_line(f"{label}: {text}") for text in texts[:SHOWN])
    if len(texts) > SHOWN:
        yield f"{label}: and {len(texts) - SHOWN} more"
