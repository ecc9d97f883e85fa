"""Verdicts on probes as bars: each probe set's value with its interval, and the limit that it is held to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

from ckptaudit.errors import printable
from ckptaudit.judging.probes import is_about_set
from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics import Measurement
from ckptaudit.report.appearance import number
from ckptaudit.report.failure import quantity
from ckptaudit.results.records import AuditResult, CheckRecord

WIDTH = 300
"""Units from the left edge of a drawing to its right one."""

ROW, BAR = 16, 10
"""Height of a bar with the space around it, and without."""

MOST = 24
"""Probe sets of one check that are drawn, those nearest to the limit first."""

SET = "set "


@dataclass(frozen=True, slots=True)
class Bar:
    """One set: a bar from 0 to its value, a whisker over its interval, and on which side of the limit that lies."""

    subject: str
    left: float
    width: float
    low: float
    high: float
    y: int
    middle: float
    said: str
    state: str


@dataclass(frozen=True, slots=True)
class Chart:
    """The bars of one check, in units of the drawing."""

    check: str
    metric: str
    limit: str
    limit_at: float
    zero_at: float
    height: int
    bars: tuple[Bar, ...]


def bar_charts(result: AuditResult, tuned: str, measured: Sequence[Measurement]) -> tuple[Chart, ...]:
    """A chart for each check of a run that a probe set has a value for, in the order of the verdicts."""
    checks = {check.id: check for check in result.checks}
    verdicts = [v for v in result.verdicts if v.tuned == tuned and v.check in checks]
    return tuple(_charts(verdicts, checks, measured))


def _charts(
    verdicts: Sequence[Verdict], checks: dict[str, CheckRecord], measured: Sequence[Measurement]
) -> Iterator[Chart]:
    for verdict in verdicts:
        own = [m for m in measured if m.metric == verdict.metric and _is_about(checks[verdict.check], m)]
        valued = [m for m in own if m.value is not None and isfinite(m.value)]
        if valued and isfinite(verdict.effective_limit):
            yield _chart(verdict, sorted(valued, key=lambda m: _order(verdict, m))[:MOST])


def _is_about(check: CheckRecord, m: Measurement) -> bool:
    if check.per == "probes":
        return not m.tensor.startswith(SET)
    return m.tensor.startswith(SET) and is_about_set(check, m.tensor.removeprefix(SET))


def _order(verdict: Verdict, m: Measurement) -> float:
    return -(m.value or 0.0) if verdict.sign == "<=" else (m.value or 0.0)


def _chart(verdict: Verdict, rows: Sequence[Measurement]) -> Chart:
    limit = verdict.effective_limit
    ends = [0.0, limit, *(end for m in rows for end in _ends(m))]
    least, most = min(ends), max(ends)
    span = (most - least) or 1.0

    def at(value: float) -> float:
        return round(WIDTH * (value - least) / span, 1)

    bars = tuple(
        _bar(m, verdict, row, at(m.value or 0.0), at(0.0), [at(end) for end in _ends(m)])
        for row, m in enumerate(rows)
    )
    return Chart(
        check=verdict.check,
        metric=verdict.metric,
        limit=f"{verdict.sign} {number(limit)}",
        limit_at=at(limit),
        zero_at=at(0.0),
        height=ROW * len(rows),
        bars=bars,
    )


def _bar(m: Measurement, verdict: Verdict, row: int, value: float, zero: float, ends: Sequence[float]) -> Bar:
    low, high = _ends(m)
    said = f"{printable(m.tensor)}: {quantity(m.metric, m.value or 0.0)}, {number(low)} to {number(high)}"
    return Bar(
        subject=printable(m.tensor.removeprefix(SET)),
        left=min(value, zero),
        width=round(abs(value - zero), 1),
        low=ends[0],
        high=ends[1],
        y=row * ROW + (ROW - BAR) // 2,
        middle=row * ROW + ROW / 2,
        said=f"{said}; {m.samples or 0:,} probes",
        state=_state(verdict, low, high),
    )


def _ends(m: Measurement) -> tuple[float, float]:
    value = m.value or 0.0
    low, high = (value if end is None or not isfinite(end) else end for end in (m.low, m.high))
    return low, high


def _state(verdict: Verdict, low: float, high: float) -> str:
    """Where the complete interval lies: within the limit, past it, or across."""
    limit = verdict.effective_limit
    past = low > limit if verdict.sign == "<=" else high < limit
    within = high <= limit if verdict.sign == "<=" else low >= limit
    return "past" if past else "within" if within else "across"
