"""Broken checks of rollouts over the steps, as a line of small bars each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ckptaudit.errors import printable
from ckptaudit.report.appearance import number
from ckptaudit.results.records import AuditResult

BARS = "▁▂▃▄▅▆▇█"
LONGEST = 60
SHOWN = 6


def step_lines(result: AuditResult) -> Iterator[str]:
    """For each broken check that looks at every step: its curve, the limit, the first step that is broken."""
    curves = {(log.tuned, one.metric): one for log in result.rollouts for one in log.curves}
    broken = [v for v in result.verdicts if v.outcome == "failed" and v.over_steps is not None]
    for verdict in broken[:SHOWN]:
        curve = curves.get((verdict.tuned, verdict.metric))
        if curve is not None:
            over = verdict.over_steps
            assert over is not None  # the others were left out
            values = [value for value in curve.values if value is not None]
            yield (
                f"{printable(verdict.check)}  {sparkline(values)}  {number(min(values))} to {number(max(values))}, "
                f"limit {verdict.sign} {number(verdict.effective_limit)}, broken at {over.broken} of {over.judged} "
                f"steps, first at {printable(over.first_broken)}"
            )
    if len(broken) > SHOWN:
        yield f"and {len(broken) - SHOWN} more checks in the other reports"


def sparkline(values: Sequence[float], width: int = LONGEST) -> str:
    """A bar for each value, or for the largest of each stretch where not all fit; from 0, or the smallest below."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min([*known, 0.0]), max(known, default=0.0)
    size = math.ceil(len(values) / width) or 1
    highest = [max(values[start : start + size]) for start in range(0, len(values), size)]
    return "".join(BARS[_height(value, low, high)] for value in highest)


def _height(value: float, low: float, high: float) -> int:
    if not math.isfinite(value) or high <= low:
        return len(BARS) - 1 if not math.isfinite(value) else 0
    return min(int((value - low) / (high - low) * len(BARS)), len(BARS) - 1)
