"""The table at the end of the terminal output: one row for each check and run."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import Literal

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from ckptaudit.errors import printable
from ckptaudit.report.failure import number
from ckptaudit.result import AuditResult
from ckptaudit.verdict import Verdict

WORDS = {"passed": "holds", "failed": "BROKEN", "waived": "waived", "error": "CANNOT JUDGE", "skipped": "skipped"}
COLOURS = {
    "passed": "green",
    "failed": "bold red",
    "waived": "yellow",
    "error": "bold magenta",
    "skipped": "yellow",
}
GRAVITY = ("error", "failed", "waived", "passed", "skipped")


def render_summary(result: AuditResult, verdicts: Sequence[Verdict], *, width: int, colour: bool) -> str:
    """The table and a closing line as text of the given width, with colour codes or without."""
    stream = StringIO()
    system: Literal["standard"] | None = "standard" if colour else None
    # As wide as its content asks: rich would squeeze every column, the table below only the last.
    console = Console(file=stream, width=max(width, 400), force_terminal=colour, color_system=system)
    console.print(_table(verdicts, width=width, several=len(result.tuned) > 1))
    for line in (*_closing(result, verdicts), *_shortlist("note", result.notes)):
        console.print(Text(line))
    return stream.getvalue().rstrip("\n")


def _table(verdicts: Sequence[Verdict], *, width: int, several: bool) -> Table:
    compared = any(v.released is not None for v in verdicts)
    names = [*["run"] * several, "check", "verdict", "worst", *["released"] * compared, "limit", "where"]
    rows = [_row(group, several=several, compared=compared) for group in _by_check(verdicts)]
    taken = [max(map(len, (name, *(row[i].plain for row in rows)))) for i, name in enumerate(names)]
    # Only the last column gives way on a narrow terminal: the numbers must stay whole.
    taken[-1] = min(taken[-1], max(16, width - sum(taken[:-1]) - 2 * len(names)))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name, size in zip(names, taken, strict=True):
        justify: JustifyMethod = "right" if name in ("worst", "released", "limit") else "left"
        table.add_column(name, width=size, no_wrap=True, overflow="ellipsis", justify=justify)
    for row in rows:
        table.add_row(*row)
    return table


def _by_check(verdicts: Sequence[Verdict]) -> list[list[Verdict]]:
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict.tuned, verdict.check), []).append(verdict)
    return list(groups.values())


def _row(group: list[Verdict], *, several: bool, compared: bool) -> list[Text]:
    worst = min(group, key=_severity)
    counted = sum(v.outcome == worst.outcome for v in group)
    lenient = worst.outcome == "failed" and not worst.closes
    style = "waived" if lenient else worst.outcome
    share = "" if len(group) == 1 else f" {counted}/{len(group)}"
    value = "-" if worst.value is None else ("<= " if worst.kind == "upper_bound" else "") + number(worst.value)
    cells = [
        Text(printable(worst.check)),
        Text((f"broken ({worst.severity})" if lenient else WORDS[worst.outcome]) + share, style=COLOURS[style]),
        Text(value),
        *([Text("-" if worst.released is None else number(worst.released))] if compared else []),
        Text(f"{worst.sign} {number(worst.limit)}"),
        Text(printable(worst.worst or worst.reason or worst.subject)),
    ]
    return [Text(printable(worst.tuned)), *cells] if several else cells


def _severity(verdict: Verdict) -> tuple[int, float]:
    room = 0.0
    if verdict.value is not None:
        room = verdict.limit - verdict.value if verdict.sign == "<=" else verdict.value - verdict.limit
    return GRAVITY.index(verdict.outcome), room


def _closing(result: AuditResult, verdicts: Sequence[Verdict]) -> list[str]:
    s = result.summary
    bounds = sum(v.kind in ("upper_bound", "lower_bound") for v in verdicts)
    lines = [
        f"base {printable(result.base)}",
        *(f"tuned {printable(path)}" for path in result.tuned),
        f"{len(verdicts)} verdicts: {s.passed} hold, {s.failed} broken, "
        f"{s.errors} cannot be judged, {s.skipped} skipped"
        + (f", {s.waived} waived" if s.waived else "")
        + (f", {s.warned} broken that only warn" if s.warned else "")
        + (f"; {bounds} settled by a bound" if bounds else ""),
    ]
    return [*lines, *_shortlist("not aligned", result.unaligned)]


def _shortlist(label: str, texts: Sequence[str]) -> list[str]:
    more = f"; and {len(texts) - 5} more" if len(texts) > 5 else ""
    return [f"{label}: {'; '.join(map(printable, texts[:5]))}{more}"] if texts else []
