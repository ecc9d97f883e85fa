"""A run over its steps, and runs beside each other, as rows of the result: read off measurements and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics import Measurement
from ckptaudit.metrics.descriptions import descriptions, over_of, scope_of
from ckptaudit.pairing.runs import RunGroup
from ckptaudit.results.records import MetricCurve, Siblings, StepRecord, Trajectory

KINSHIP = "sibling_kinship"

Values = dict[str, dict[str, list[float]]]


def trajectory_of(group: RunGroup, measurements: Sequence[Measurement], verdicts: Sequence[Verdict]) -> Trajectory:
    """A run's saves, where each check first fails, and every metric along them."""
    order = group.order
    steps = [StepRecord(run.path, run.label, step) for run, step in zip(group.runs, order.steps, strict=True)]
    values = _by_metric(measurements, [step.tuned for step in steps])
    among_siblings = {name for name in values if over_of(name) == "siblings"}
    return Trajectory(
        name=order.name,
        steps=tuple(steps),
        counted=order.counted,
        first_failures=_first_failures(steps, verdicts),
        series=tuple(_series(name, values[name], steps) for name in sorted(values.keys() - among_siblings)),
    )


def siblings_of(group: RunGroup, measurements: Sequence[Measurement], verdicts: Sequence[Verdict]) -> Siblings:
    """How runs from one base agree, and which of them a check on their kinship names."""
    paths = [run.path for run in group.runs]
    values = _by_metric(measurements, paths)
    known = dict.fromkeys([*descriptions(), *values])
    names = [name for name in known if over_of(name) == "siblings" and name in values]
    named = {v.tuned for v in verdicts if v.metric == KINSHIP and v.outcome == "failed"}
    figures = {name: tuple(_mean(values[name].get(path, [])) for path in paths) for name in names}
    return Siblings(tuple(paths), tuple(path for path in paths if path in named), figures)


def notes_of(trajectories: Sequence[Trajectory]) -> list[str]:
    """What a reader should know of the runs over their steps, in sentences."""
    return [note for row in trajectories for note in _notes(row)]


def _notes(row: Trajectory) -> list[str]:
    saves = f"{len(row.steps)} saves of {row.name}"
    notes = [f"{saves}: the names hold no step numbers, so they are counted 1, 2, ..."] if row.counted else []
    failures = [f"{check} at {label}" for check, label in row.first_failures.items()]
    return [*notes, *([f"{saves}: first failures: {', '.join(failures)}"] if failures else [])]


def _first_failures(steps: Sequence[StepRecord], verdicts: Sequence[Verdict]) -> dict[str, str]:
    failed = {(v.check, v.tuned) for v in verdicts if v.outcome == "failed"}
    first: dict[str, str] = {}
    for check in dict.fromkeys(v.check for v in verdicts):
        label = next((step.label for step in steps if (check, step.tuned) in failed), None)
        if label is not None:
            first[check] = label
    return first


def _by_metric(measurements: Sequence[Measurement], paths: Sequence[str]) -> Values:
    """Values of matrices, and of probe sets, by metric and run."""
    found: Values = {}
    for m in measurements:
        of_probes = scope_of(m.metric) == "probes"
        if m.value is not None and m.kind == "exact" and m.tuned in paths and (of_probes or len(m.shape) >= 2):
            found.setdefault(m.metric, {}).setdefault(m.tuned, []).append(m.value)
    return found


def _series(metric: str, of_run: dict[str, list[float]], steps: Sequence[StepRecord]) -> MetricCurve:
    values = [of_run.get(step.tuned) for step in steps]
    lowest, middle, highest = ([f(v) if v else None for v in values] for f in (min, median, max))
    return MetricCurve(metric, tuple(lowest), tuple(middle), tuple(highest))


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
