"""Tasks: which tensors are measured in one go. The same ones whoever measures, so that rounding is the same too."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod

from ckptaudit.errors import CkptAuditError, MeasurementError, printable
from ckptaudit.measurement.batches import (
    failed,
    is_large,
    matrices_at_once,
    measure_alike,
    measure_large,
)
from ckptaudit.measurement.jobs import Computing, Job
from ckptaudit.measurement.reading import read_large
from ckptaudit.metrics import Measurement

logger = logging.getLogger(__name__)

Outcome = list[Measurement] | CkptAuditError

Outcomes = list[tuple[list[Job], Outcome]]
"""Of a task: mostly one; of a batch with an error, one for each of its tensors."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is measured in one go: a large matrix or a stack of them, or small ones alike in one batch."""

    jobs: tuple[Job, ...]

    @property
    def is_large(self) -> bool:
        """Whether its matrices are measured one by one."""
        return is_large(self.jobs[0].tensor)

    @property
    def size(self) -> int:
        """Number of entries of one side."""
        return sum(prod(job.tensor.shape) for job in self.jobs)

    @property
    def most_at_once(self) -> int:
        """Number of entries of one side that are measured together: of a matrix, or of all in a batch."""
        _, m, n = self.jobs[0].tensor.matrix_shape
        return m * n if self.is_large else self.size

    def outcomes(self, computing: Computing) -> Outcomes:
        """What was measured; after an error in a batch, what each of its tensors gives by itself."""
        found = tried(self._measured, computing)
        if isinstance(found, CkptAuditError) and len(self.jobs) > 1:
            return [([job], tried(Task((job,))._measured, computing)) for job in self.jobs]
        return [([*self.jobs], found)]

    def _measured(self, computing: Computing) -> list[Measurement]:
        if self.is_large:
            return measure_large(self.jobs[0], read_large(self.jobs[0]), computing)
        return list(measure_alike(self.jobs, computing))


def tasks_of(jobs: Iterable[Job], batch_bytes: int) -> list[Task]:
    """Jobs as tasks: large matrices one by one, small ones of equal shape together as far as the memory goes.

    Which tensors share a batch depends on the jobs and `batch_bytes` alone, never on the machine.
    """
    large: list[Task] = []
    groups: dict[tuple[object, ...], list[Job]] = {}
    for job in jobs:
        if is_large(job.tensor):
            large.append(Task((job,)))
        else:
            groups.setdefault(_alike(job), []).append(job)
    return [*(task for group in groups.values() for task in _batches(group, batch_bytes)), *large]


def tried(work: Callable[..., list[Measurement]], *arguments: object) -> Outcome:
    """What came out; whatever a reader or a metric raises stays with the tensors that it was raised for."""
    try:
        return work(*arguments)
    except CkptAuditError as error:
        return error
    except Exception as error:
        logger.debug("a measurement failed", exc_info=True)
        return MeasurementError(f"{type(error).__name__}: {printable(error)[:300]}")


def rows_of(outcomes: Iterable[tuple[Sequence[Job], Outcome]]) -> list[Measurement]:
    """Measurements; what could not be measured is there without a value, and with the reason."""
    return [m for jobs, outcome in outcomes for m in _rows(jobs, outcome)]


def _rows(jobs: Sequence[Job], outcome: Outcome) -> list[Measurement]:
    if isinstance(outcome, CkptAuditError):
        return [m for job in jobs for m in failed(job, printable(outcome.sentence))]
    return outcome


def _alike(job: Job) -> tuple[object, ...]:
    tensor = job.tensor
    _, m, n = tensor.matrix_shape
    # Two runs have tensors of the same name.
    return m, n, tensor.base.dtype, tensor.tuned.dtype, job.metrics, tensor.is_matrix, job.unit.run, job.stage


def _batches(group: Sequence[Job], batch_bytes: int) -> Iterable[Task]:
    _, m, n = group[0].tensor.matrix_shape
    room = matrices_at_once(m, n, batch_bytes)
    batch: list[Job] = []
    held = 0
    for job in group:
        count = job.tensor.matrix_shape[0]
        if batch and held + count > room:
            yield Task(tuple(batch))
            batch, held = [], 0
        batch.append(job)
        held += count
    yield Task(tuple(batch))
