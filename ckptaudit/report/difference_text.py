"""The difference of two audits in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ckptaudit.errors import printable
from ckptaudit.report.appearance import number
from ckptaudit.report.escaping import log_line
from ckptaudit.results.diff import Changed, Difference, Moved

SHOWN = 20


def difference_lines(difference: Difference) -> Iterator[str]:
    """The whole comparison, most important first, long lists cut."""
    yield from map(log_line, _lines(difference))


def _lines(difference: Difference) -> Iterator[str]:
    yield f"{printable(difference.a)} -> {printable(difference.b)}"
    yield from (f"note: {printable(remark)}" for remark in difference.remarks)
    yield from (f"limit moved: {printable(line)}" for line in difference.limits_moved)
    for turn in ("worse", "changed", "better"):
        rows = [c for c in difference.changed if c.turn == turn]
        yield from _section(f"{turn}: {len(rows)} verdicts", [_changed(c) for c in rows])
    yield from _section(f"moved: {len(difference.moved)} numbers", list(_moved(difference.moved)))
    if not difference.changed and not difference.moved:
        yield "no verdict changed, no number moved"


def _section(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield title
        yield from (f"  {line}" for line in lines[:SHOWN])
        if len(lines) > SHOWN:
            yield f"  and {len(lines) - SHOWN} more"


def _changed(c: Changed) -> str:
    where = f"{c.check}[{printable(c.subject)}]"
    return f"{where}: {c.was} -> {c.now}{_values(c)}"


def _moved(moved: Sequence[Moved]) -> Iterator[str]:
    by_metric: dict[str, list[Moved]] = {}
    for m in moved:
        by_metric.setdefault(m.metric, []).append(m)
    for metric, rows in by_metric.items():
        # A number that was zero has no factor, and would hide all that have one.
        most = next((m for m in rows if 0 < m.factor < math.inf), rows[0])
        how = f"{_factor(most.factor)}, {number(most.was)} -> {number(most.now)}"
        yield f"{metric}: {len(rows)}, the most {how}  {printable(most.tensor)}"


def _values(c: Changed) -> str:
    if c.value_was is None and c.value_now is None:
        return ""
    was, now = ("none" if value is None else number(value) for value in (c.value_was, c.value_now))
    limit = c.limit_now if c.limit_now is not None else c.limit_was
    return f" ({was} -> {now}{'' if limit is None else f', limit {number(limit)}'})"


def _factor(factor: float) -> str:
    if 0 < factor < 1:
        return f"/{1 / factor:.2g}"
    return "from or to zero" if factor in (0.0, float("inf")) else f"x{factor:.2g}"
