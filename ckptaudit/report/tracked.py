"""What an experiment tracker keeps of an audit: a few scalars for each run, and the rest as tables."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO

from ckptaudit.errors import printable
from ckptaudit.judging.verdict import Verdict, times_over
from ckptaudit.metrics.scales import is_count
from ckptaudit.report.appearance import margin_of, word
from ckptaudit.report.places import stack_of
from ckptaudit.report.rollout_curves import logged_curves
from ckptaudit.report.run_names import part, run_names
from ckptaudit.results.gate import answer
from ckptaudit.results.records import AuditResult

Cell = str | int | float | None

VERDICTS = ("check", "subject", "verdict", "value", "kind", "sign", "limit", "margin", "worst", "reason")
LAYERS = ("metric", "role", "layer", "tensors", "lowest", "mean", "highest")


@dataclass(frozen=True)
class Table:
    """Rows under named columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def csv(self) -> str:
        """As comma-separated values. A text that a spreadsheet would compute with is marked as text."""
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_as_text(cell) for cell in row] for row in self.rows)
        return text.getvalue()


@dataclass(frozen=True)
class TrackedRun:
    """One tuned checkpoint for a tracker; `step` is that of its save, 0 where there are no several."""

    path: str
    name: str
    step: int
    tags: dict[str, str]
    scalars: dict[str, float]
    verdicts: Table
    layers: Table
    curves: dict[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    """Metrics of rollouts, as `rollouts/METRIC`: step of the training run and value."""

    def by_step(self) -> Iterator[tuple[int, dict[str, float]]]:
        """The curves' values at each step, in order."""
        found: dict[int, dict[str, float]] = {}
        for name, points in self.curves.items():
            for step, value in points:
                found.setdefault(step, {})[name] = value
        yield from sorted(found.items())


def tracked_runs(result: AuditResult) -> list[TrackedRun]:
    """One for each tuned checkpoint."""
    steps = {step.tuned: step.step for row in result.trajectories for step in row.steps}
    names = run_names(result)
    return [
        TrackedRun(
            path=run,
            name=names[run],
            step=steps.get(run, 0),
            tags=_tags(result, run),
            scalars=_scalars(result, run),
            verdicts=Table(VERDICTS, tuple(_verdict_row(v) for v in result.verdicts if v.tuned == run)),
            layers=Table(LAYERS, tuple(_layer_rows(result, run))),
            curves=_curves(result, run),
        )
        for run in result.runs
    ]


def worst_margin(verdicts: Sequence[Verdict]) -> float | None:
    """How many times beyond its limit the farthest verdict lies: over 1 is broken, 0.5 is half way to the limit.

    Counts, and limits of which nothing is a multiple, are left out; None where nothing is left.
    """
    judged = [v for v in verdicts if v.value is not None and not is_count(v.metric) and v.severity != "info"]
    found = [times_over(v.value or 0.0, v.effective_limit, v.sign) for v in judged]
    return max((times for times in found if math.isfinite(times)), default=None)


def _scalars(result: AuditResult, run: str) -> dict[str, float]:
    """`gate_open`, how many verdicts ended how, `worst_margin`, that of each check, and the share judged."""
    own = [v for v in result.verdicts if v.tuned == run]
    broken = [v for v in own if v.outcome == "failed"]
    found: dict[str, float | None] = {
        "gate_open": float(answer(own).is_open),
        "passed": sum(v.outcome == "passed" for v in own),
        "failed": sum(v.closes for v in broken),
        "warned": sum(v.severity == "warn" and not v.closes for v in broken),
        "errors": sum(v.outcome == "error" for v in own),
        "worst_margin": worst_margin(own),
        "coverage": next((c.share for c in result.coverage if c.tuned == run), None),
    }
    for check in dict.fromkeys(v.check for v in own):
        found[f"margin/{part(check)}"] = worst_margin([v for v in own if v.check == check])
    return {name: float(value) for name, value in found.items() if value is not None}


def _tags(result: AuditResult, run: str) -> dict[str, str]:
    prints = {row.path: row.fingerprint for row in result.checkpoints}
    own = [v for v in result.verdicts if v.tuned == run]
    return {
        "base": printable(result.base),
        "base_fingerprint": prints.get(result.base, ""),
        "tuned": printable(run),
        "tuned_fingerprint": prints.get(run, ""),
        "profile": result.about.profile if result.about else "",
        "gate": "open" if answer(own).is_open else "closed",
        "broken": ", ".join(dict.fromkeys(printable(v.check) for v in own if v.closes)),
    }


def _verdict_row(v: Verdict) -> tuple[Cell, ...]:
    return (
        printable(v.check),
        printable(v.subject),
        word(v),
        v.value,
        v.kind or "",
        v.sign,
        v.effective_limit,
        margin_of(v),
        printable(v.worst or ""),
        printable(v.reason),
    )


def _curves(result: AuditResult, run: str) -> dict[str, tuple[tuple[int, float], ...]]:
    return {
        f"rollouts/{part(curve.metric)}": tuple(zip(curve.steps, curve.values, strict=True))
        for log in result.rollouts
        if log.tuned == run
        for curve in logged_curves(result, log)
    }


def _layer_rows(result: AuditResult, run: str) -> Iterator[tuple[Cell, ...]]:
    """A row for each metric, role and layer: how many tensors, and the range of their values."""
    found: dict[tuple[str, str, int | None], list[float]] = {}
    for m in result.measurements:
        if m.tuned == run and m.value is not None and math.isfinite(m.value):
            stack = stack_of(m.tensor)
            role = printable(f"{stack}.{m.role}" if stack else m.role)
            found.setdefault((m.metric, role, m.layer), []).append(m.value)
    for (metric, role, layer), values in found.items():
        yield metric, role, layer, len(values), min(values), math.fsum(values) / len(values), max(values)


def _as_text(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell
