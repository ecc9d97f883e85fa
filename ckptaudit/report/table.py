"""The checks as aligned columns; as blocks of short lines where the terminal is too narrow for columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.text import Text

from ckptaudit.errors import printable
from ckptaudit.judging.verdict import Verdict
from ckptaudit.report.appearance import bound_mark, colour_of, margin_of, number, share, shortened, word
from ckptaudit.report.places import names_a_weight, short_name
from ckptaudit.results.gate import gravest

HOW = {"exact": "exact", "upper_bound": "bound", "lower_bound": "bound", None: ""}
LEAST_FOR_WHERE = {2: 16, 1: 8}
"""By the gap between columns."""


@dataclass(frozen=True)
class Row:
    """One check: its worst verdict in words, cell by cell."""

    check: str
    verdict: str
    colour: str
    worst: str
    released: str
    limit: str
    margin: str
    how: str
    where: str
    short_where: str
    reason: str


HEADINGS = Row("check", "verdict", "bold", "worst", "released", "limit", "margin", "how", "where", "where", "")
RIGHT = ("worst", "released", "margin")


def check_lines(groups: Sequence[Sequence[Verdict]], width: int) -> list[Text]:
    """A heading and a line for each group of verdicts, no wider than the terminal where that can be."""
    rows = [_row(group) for group in groups]
    if not rows:
        return []
    released = ["released"] if any(row.released for row in rows) else []
    columns = ["check", "verdict", "worst", *released, "limit", "margin"]
    for gap in (2, 1):
        rows = rows if gap == 2 else [replace(row, margin=_briefly(row.margin)) for row in rows]
        sizes = {name: max(len(getattr(row, name)) for row in (HEADINGS, *rows)) for name in (*columns, "how")}
        taken = sum(sizes[name] + gap for name in columns)
        if taken + sizes["how"] + gap + 24 <= width:
            return _columns(rows, {name: sizes[name] for name in (*columns, "how")}, gap, width)
        if taken + LEAST_FOR_WHERE[gap] <= width:
            return _columns(rows, {name: sizes[name] for name in columns}, gap, width)
    return [line for row in rows for line in _block(row, width)]


def _briefly(margin: str) -> str:
    return margin.replace(" below the minimum", " below").replace(" above the limit", " above")


def _columns(rows: Sequence[Row], sizes: dict[str, int], gap: int, width: int) -> list[Text]:
    left = width - sum(size + gap for size in sizes.values())
    return [
        line for row in (HEADINGS, *rows) for line in (_column_line(row, sizes, gap, left), *_reason(row, width))
    ]


def _reason(row: Row, width: int) -> list[Text]:
    """Why there is no value, under the row that has none."""
    if not row.reason:
        return []
    return [
        Text(line)
        for line in textwrap.wrap(row.reason, max(width, 24), initial_indent="    ", subsequent_indent="    ")
    ]


def _column_line(row: Row, sizes: dict[str, int], gap: int, left: int) -> Text:
    line = Text()
    for name, size in sizes.items():
        cell = getattr(row, name)
        padded = cell.rjust(size) if name in RIGHT else cell.ljust(size)
        line.append(padded, style=row.colour if name == "verdict" or row is HEADINGS else "")
        line.append(" " * gap)
    where = row.where if len(row.where) <= left else row.short_where
    line.append(shortened(where, left), style="bold" if row is HEADINGS else "")
    return line


def _block(row: Row, width: int) -> list[Text]:
    line = Text(row.check)
    together = len(row.check) + 2 + len(row.verdict) <= width
    lines = (
        [line.append(": ").append(row.verdict, style=row.colour)]
        if together
        else [
            line,
            Text(f"  {row.verdict}", style=row.colour),
        ]
    )
    numbers = f"  {row.worst}, limit {row.limit}" + (f", released {row.released}" if row.released else "")
    beside = f"{numbers}, {row.margin}" if row.margin else numbers
    lines += [Text(beside)] if len(beside) <= width else [Text(numbers), Text(f"  {row.margin}")]
    return [*lines, Text(f"  {shortened(row.short_where, max(width - 2, 8))}"), *_reason(row, width)]


def _row(group: Sequence[Verdict]) -> Row:
    worst = gravest(group)
    counted = share(sum(v.outcome == worst.outcome for v in group), len(group))
    where = printable(worst.worst or worst.subject)
    return Row(
        check=printable(worst.check),
        verdict=" ".join(filter(None, (word(worst), counted))),
        colour=colour_of(worst),
        worst="-" if worst.value is None else bound_mark(worst.kind) + number(worst.value),
        released="" if worst.released is None else number(worst.released),
        limit=f"{worst.sign} {number(worst.limit)}",
        margin=margin_of(worst),
        how=HOW[worst.kind],
        where=where,
        short_where=printable(short_name(worst.worst)) if worst.worst and names_a_weight(worst) else where,
        reason=printable(worst.reason) if worst.outcome == "skipped" else "",
    )
