"""Broken claims that do not close the gate: warnings and notes, a line for each check; and what is waived."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ckptaudit.errors import printable
from ckptaudit.judging.verdict import Verdict
from ckptaudit.report.appearance import counted, margin_of
from ckptaudit.report.escaping import log_line
from ckptaudit.report.failure import compared
from ckptaudit.results.gate import gravity

SHOWN = 10
"""How many of a kind get a line of their own."""

FINDINGS_SHOWN = 4
"""How many findings stand in one line."""


def unheeded(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """The lines for the end of the terminal output, warnings first: one for each check."""
    for severity, label in (("warn", "warning"), ("info", "note")):
        theirs = [v for v in verdicts if v.outcome == "failed" and v.severity == severity]
        yield from _lines(label, [f"{_name(group)}: {_what(group)}" for group in _by_check(theirs)])
    waived = [v for v in verdicts if v.outcome == "waived"]
    yield from _lines("waived", [f"{_name([v])}: {compared(v)}; {printable(v.waiver)}" for v in waived])


def _by_check(verdicts: Sequence[Verdict]) -> list[list[Verdict]]:
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(verdict.check, []).append(verdict)
    return [sorted(group, key=gravity) for group in groups.values()]


def _what(group: Sequence[Verdict]) -> str:
    worst = group[0]
    margin = f", {margin_of(worst)}" if margin_of(worst) else ""
    if worst.findings:
        more = len(worst.findings) - FINDINGS_SHOWN
        named = "; ".join(map(str, worst.findings[:FINDINGS_SHOWN]))
        return f"{counted(worst)}; {named}{f'; and {more} more' if more > 0 else ''}"
    return f"{compared(worst)}{margin}; worst {printable(worst.worst or '-')}"


def _name(group: Sequence[Verdict]) -> str:
    where = printable(group[0].subject)
    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    return f"{group[0].check}[{where}]{more}"


def _lines(label: str, texts: list[str]) -> Iterator[str]:
    yield from (log_line(f"{label}: {text}") for text in texts[:SHOWN])
    if len(texts) > SHOWN:
        yield f"{label}: and {len(texts) - SHOWN} more"
