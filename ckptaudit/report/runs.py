"""The tuned checkpoints of an audit by short names, and a row for each: verdict, worst check, margin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from msgspec.structs import replace

from ckptaudit.errors import printable
from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics.measurement import Measurement
from ckptaudit.report.appearance import beyond, margin_of
from ckptaudit.report.columns import Column, aligned
from ckptaudit.results.gate import answer, gravest, gravity
from ckptaudit.results.records import AuditResult, SpectrumRecord

COLUMNS = (
    Column("run"),
    Column("verdict"),
    Column("failed", right=True),
    Column("worst check"),
    Column("margin"),
    Column("at"),
)


@dataclass(frozen=True)
class RunRow:
    """One tuned checkpoint: whether its gate is open, how many checks failed, and the gravest verdict."""

    path: str
    label: str
    is_open: bool
    failed: int
    checks: int
    worst: Verdict | None


def labels(result: AuditResult) -> dict[str, str]:
    """By path, the shortest end of it that tells the runs apart."""
    parts = {run: PurePosixPath(run).parts or (run,) for run in result.runs}
    longest = max((len(p) for p in parts.values()), default=1)
    for count in range(1, longest + 1):
        found = {run: "/".join(p[-count:]) for run, p in parts.items()}
        if len(set(found.values())) == len(found):
            return {run: printable(label) for run, label in found.items()}
    return {run: printable(run) for run in result.runs}


def run_rows(result: AuditResult) -> list[RunRow]:
    """Steps of a run in their order; other runs the gravest first."""
    names = labels(result)
    rows = [_row(run, names[run], own.verdicts) for run, own in by_run(result).items()]
    in_steps = {step.tuned for trajectory in result.trajectories for step in trajectory.steps}
    if in_steps >= set(result.runs):
        steps = (step.tuned for trajectory in result.trajectories for step in trajectory.steps)
        order = {path: place for place, path in enumerate(dict.fromkeys(steps))}
        return sorted(rows, key=lambda row: order[row.path])
    return sorted(rows, key=_gravity)


def by_run(result: AuditResult) -> dict[str, AuditResult]:
    """The result as each run alone has it: its verdicts, measurements and spectra, each looked at once."""
    verdicts: dict[str, list[Verdict]] = {run: [] for run in result.runs}
    measurements: dict[str, list[Measurement]] = {run: [] for run in result.runs}
    spectra: dict[str, list[SpectrumRecord]] = {run: [] for run in result.runs}
    for verdict in result.verdicts:
        verdicts.setdefault(verdict.tuned, []).append(verdict)
    for measurement in result.measurements:
        measurements.setdefault(measurement.tuned, []).append(measurement)
    for spectrum in result.spectra:
        spectra.setdefault(spectrum.tuned, []).append(spectrum)
    return {
        run: replace(
            result,
            verdicts=tuple(verdicts[run]),
            measurements=tuple(measurements[run]),
            spectra=tuple(spectra[run]),
        )
        for run in result.runs
    }


def run_lines(result: AuditResult, width: int) -> list[str]:
    """The rows as aligned columns."""
    return aligned(COLUMNS, [_cells(row) for row in run_rows(result)], width, 0)


def first_closed(result: AuditResult) -> str:
    """The label of the run that keeps the gate shut most gravely, and how many more do; empty where none does."""
    closed = sorted((row for row in run_rows(result) if not row.is_open), key=_gravity)
    if not closed:
        return ""
    more = f" and {len(closed) - 1} more run{'s' * (len(closed) > 2)}" if len(closed) > 1 else ""
    return f"{closed[0].label}{more}"


def first_shown(result: AuditResult) -> str:
    """The path of the run to be looked at first: the gravest."""
    return min(run_rows(result), key=_gravity).path


def _row(path: str, label: str, verdicts: Sequence[Verdict]) -> RunRow:
    judged = [v for v in verdicts if v.outcome != "skipped" and (v.closes or _has_room(v))]
    return RunRow(
        path=path,
        label=label,
        is_open=answer(verdicts).is_open,
        failed=len({v.check for v in verdicts if v.closes}),
        checks=len({v.check for v in verdicts}),
        worst=gravest(judged) if judged else None,
    )


def _has_room(verdict: Verdict) -> bool:
    """Whether it tells how near to its limit a run is: notes do not, nor do counts of what was not found."""
    return verdict.severity != "info" and bool(margin_of(verdict))


def _gravity(row: RunRow) -> tuple[object, ...]:
    return (row.is_open, *(gravity(row.worst) if row.worst else ()))


def _cells(row: RunRow) -> tuple[str, ...]:
    worst = row.worst
    nothing = ("-", "", "") if worst is None else (printable(worst.check), beyond(worst), printable(worst.subject))
    return (row.label, "open" if row.is_open else "CLOSED", f"{row.failed}/{row.checks}", *nothing)
