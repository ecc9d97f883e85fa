"""Units of work measured in rounds: bounds first, then as few numbers as the verdicts need.

A verdict that is judged by its worst matrix has failed as soon as one exact number breaks its limit. So where
bounds do not settle it, the matrix of the worst bound is computed, and the others only if that one holds. Which
matrices are computed follows from the bounds alone, never from what was measured first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ckptaudit.errors import CkptAuditError, printable
from ckptaudit.measurement.batches import failed, is_large
from ckptaudit.measurement.jobs import Computing, Job, Unit
from ckptaudit.measurement.scheduler import in_order, outcomes
from ckptaudit.measurement.tasks import Outcome
from ckptaudit.metrics import METRICS, MatrixMetric, Measurement, matrix_metrics

SINGLE = 2
"""Rounds of one number each, after the bounds and before all numbers that are still open."""

NEAR = 1.1
"""Bounds that differ by less are as good as equal. Then the smaller long side comes first: the longer it is, the
less does an update without preference shift the singular values, and the more work is the number."""


@dataclass(frozen=True, slots=True)
class Asking:
    """What a verdict asks of a metric in a unit: the limit of each matrix of these tensors.

    A bound inside `clear` may stand for the number; one between the two decides, and the number is shown. With
    `each` it must be known of every matrix on which side of its limit it lies.
    """

    tensors: frozenset[str]
    limit: Callable[[str], float]
    clear: Callable[[str], float]
    each: bool = False

    def wanted(self, metric: MatrixMetric, rows: Sequence[tuple[str, Measurement]], *, one: bool) -> list[str]:
        """The matrices whose numbers are needed next: the one of the worst bound, or all that are open."""
        own = [m for tensor, m in rows if tensor in self.tensors]
        if not self.each and any(m.kind == "exact" and not _holds(metric, m, self.limit) for m in own):
            return []
        bounds = [m for m in own if m.kind != "exact"]
        beyond = [m for m in bounds if not _holds(metric, m, self.limit)]
        if beyond and one and not self.each:
            return [self._likeliest(metric, beyond).tensor]
        return [m.tensor for m in bounds if not _holds(metric, m, self.clear)]

    def _likeliest(self, metric: MatrixMetric, undecided: Sequence[Measurement]) -> Measurement:
        excess = {m.tensor: self._excess(metric, m) for m in undecided}
        most = max(excess.values())
        return min(
            (m for m in undecided if excess[m.tensor] * NEAR >= most), key=lambda m: (max(m.shape), -min(m.shape))
        )

    def _excess(self, metric: MatrixMetric, m: Measurement) -> float:
        """How far a bound lies beyond its limit."""
        assert m.value is not None  # a bound always has one
        beyond = m.value - self.limit(m.tensor)
        return beyond if metric.upper_bound else -beyond


def _holds(metric: MatrixMetric, m: Measurement, limit: Callable[[str], float]) -> bool:
    return m.value is not None and metric.settles(m.value, limit(m.tensor))


Questions = Mapping[tuple[Unit, str], Sequence[Asking]]
"""By unit and metric, what the verdicts ask."""


Source = Callable[[Sequence[Job]], Iterable[tuple[list[Job], Outcome]]]
"""Whoever measures jobs, and gives what came of them as it is done."""


def first_round(jobs: Sequence[Job], computing: Computing, *, staged: bool = True) -> list[Job]:
    """The jobs as they are measured first: of large matrices bounds, where bounds may suffice."""
    if not staged or not computing.sufficient:
        return list(jobs)
    return [
        Job(job.tensor, job.metrics, job.unit, "bounds", job.only) if is_large(job.tensor) else job for job in jobs
    ]


def by_unit(
    jobs: Sequence[Job], computing: Computing, questions: Questions | None = None, source: Source | None = None
) -> Iterator[tuple[int, list[tuple[Unit, list[Measurement]]]]]:
    """Every wanted metric by units: how many jobs were just done, and which units are now complete.

    What cannot be measured is there without a value, and with the reason. Without `questions` every bound that
    does not suffice gives way to its number. `source` measures in place of this process.
    """
    measured_by = source or partial(outcomes, computing=computing)
    units: dict[Unit, _Open] = {}
    for job in jobs:
        units.setdefault(job.unit, _Open()).jobs.append(job)
    position = {(job.unit, job.tensor.name): at for at, job in enumerate(jobs)}
    staged = questions is not None and bool(computing.sufficient)
    queue = first_round(jobs, computing, staged=staged)
    for number in range(SINGLE + 2):
        later: list[Job] = []
        for job in queue:
            units[job.unit].missing += 1
        for measured, outcome in measured_by(queue):
            done, complete = 0, list[tuple[Unit, list[Measurement]]]()
            for unit, rows in _rows(measured, outcome).items():
                own = [job for job in measured if job.unit == unit]
                done += units[unit].record(own, rows, computing)
                if units[unit].missing:
                    continue
                following = units[unit].following(unit, questions or {}, one=number < SINGLE) if staged else []
                later += following
                if not following:
                    finished = units.pop(unit)
                    done += finished.uncounted
                    complete.append((unit, in_order(list(finished.rows.values()), finished.jobs)))
            yield done, complete
        # What shares a batch must not depend on what was measured first.
        queue = sorted(later, key=lambda job: position[job.unit, job.tensor.name])


@dataclass
class _Open:
    """A unit of which something is still missing; `uncounted` of its jobs may be asked for more."""

    jobs: list[Job] = field(default_factory=list)
    rows: dict[tuple[str, str], Measurement] = field(default_factory=dict)
    missing: int = 0
    uncounted: int = 0

    def record(self, jobs: Sequence[Job], rows: Sequence[Measurement], computing: Computing) -> int:
        """Keep what these jobs gave; how many of them are done for good."""
        self.rows.update({(m.tensor, m.metric): m for m in rows})
        self.missing -= len(jobs)
        if any(job.stage == "numbers" for job in jobs):
            return 0
        loose = {m.tensor for m in rows if not _suffices(m, computing)}
        open_jobs = sum(not loose.isdisjoint(job.tensor.matrix_names()) for job in jobs) if loose else 0
        self.uncounted += open_jobs
        return len(jobs) - open_jobs

    def following(self, unit: Unit, questions: Questions, *, one: bool) -> list[Job]:
        """The jobs of the next round."""
        job_of = {name: job for job in self.jobs for name in job.tensor.matrix_names()}
        known, wanted = matrix_metrics(), dict[str, tuple[set[str], set[str]]]()
        bounded: dict[str, list[tuple[str, Measurement]]] = {
            m.metric: [] for m in self.rows.values() if m.kind != "exact"
        }
        for m in self.rows.values():
            if m.metric in bounded:
                bounded[m.metric].append((job_of[m.tensor].tensor.name, m))
        for metric, rows in bounded.items():
            for asking in questions.get((unit, metric), ()):
                for matrix in asking.wanted(known[metric], rows, one=one):
                    names, metrics = wanted.setdefault(job_of[matrix].tensor.name, (set(), set()))
                    names.add(matrix)
                    metrics.add(metric)
        return [
            replace(job, metrics=frozenset(metrics), stage="numbers", only=frozenset(names))
            for job in self.jobs
            if job.tensor.name in wanted
            for names, metrics in (wanted[job.tensor.name],)
        ]


def _suffices(m: Measurement, computing: Computing) -> bool:
    if m.kind == "exact" or m.value is None:
        return True
    metric = METRICS[m.metric]
    assert isinstance(metric, MatrixMetric)  # no other has bounds
    return metric.settles(m.value, computing.sufficient[m.metric])


def _rows(measured: Sequence[Job], outcome: Outcome) -> dict[Unit, list[Measurement]]:
    """What came out of these jobs, by unit."""
    if isinstance(outcome, CkptAuditError):
        outcome = [m for job in measured for m in failed(job, printable(outcome.sentence))]
    rows: dict[Unit, list[Measurement]] = {job.unit: [] for job in measured}
    unit_of = {name: job.unit for job in measured for name in job.tensor.matrix_names()}
    for m in outcome:
        rows[unit_of[m.tensor]].append(m)
    return rows
