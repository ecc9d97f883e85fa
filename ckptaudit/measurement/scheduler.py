"""Jobs to measurements: which tensors go together, and in which order and how many at once they are measured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import torch
from torch import Tensor

from ckptaudit.errors import CkptAuditError, MeasurementError, printable
from ckptaudit.linalg.threads import blas_threads
from ckptaudit.measurement.batches import is_large, measure_alike, measure_large, read
from ckptaudit.measurement.jobs import Computing, Job
from ckptaudit.metrics import Measurement

logger = logging.getLogger(__name__)

WORKERS = 2
"""Large matrices that a CPU measures at once; each takes a few times its own size of memory."""

Outcome = list[Measurement] | CkptAuditError


def measure(jobs: Iterable[Job], computing: Computing) -> list[Measurement]:
    """Every wanted metric of every job's matrices, in the order of the jobs.

    Raises CkptAuditError if one of them cannot be measured.
    """
    jobs, found = list(jobs), list[Measurement]()
    for _, outcome in outcomes(jobs, computing):
        if isinstance(outcome, CkptAuditError):
            raise outcome
        found += outcome
    return in_order(found, jobs)


def in_order(found: list[Measurement], jobs: Iterable[Job]) -> list[Measurement]:
    """Measurements in the order of the jobs and their matrices.

    Which matrix is named where several are equally bad must not depend on what was measured first.
    """
    names = {name: i for i, name in enumerate(name for job in jobs for name in job.tensor.matrix_names())}
    return sorted(found, key=lambda m: names[m.tensor])


def outcomes(jobs: Iterable[Job], computing: Computing) -> Iterator[tuple[list[Job], Outcome]]:
    """The same bit by bit: large matrices one by one, small ones of equal shape together.

    What cannot be measured comes as an error in its place, and stops none of the others.
    """
    large: list[_Task] = []
    groups: dict[tuple[object, ...], list[Job]] = {}
    for job in jobs:
        tensor = job.tensor
        if is_large(tensor):
            large.append(_Task([job], prod(tensor.shape)))
            continue
        alike = (
            tensor.matrix_shape[1:],
            tensor.base.dtype,
            tensor.tuned.dtype,
            job.metrics,
            tensor.is_matrix,
            # Two runs have tensors of the same name.
            job.unit.run,
        )
        groups.setdefault(alike, []).append(job)
    small = [_Task(group, sum(prod(job.tensor.shape) for job in group)) for group in groups.values()]
    workers = (
        min(WORKERS, len(large) + len(small), torch.get_num_threads()) if computing.device.type == "cpu" else 1
    )
    if workers > 1:
        # The largest first, so that in the end no worker waits long for the other.
        ordered = sorted([*large, *small], key=lambda task: -task.size)
        yield from _in_workers(
            ordered, workers, replace(computing, batch_bytes=max(1, computing.batch_bytes // workers))
        )
        return
    # NumPy's libraries know nothing of the share of a process beside others.
    with blas_threads(torch.get_num_threads()):
        for task in small:
            yield from _one_by_one(task, _tried(task.measure, computing), computing)
        yield from _read_ahead(large, computing)


@dataclass(frozen=True, slots=True)
class _Task:
    """What is measured in one go: a large matrix, or small ones alike."""

    jobs: list[Job]
    size: int

    @property
    def is_large(self) -> bool:
        return is_large(self.jobs[0].tensor)

    def measure(self, computing: Computing) -> list[Measurement]:
        if self.is_large:
            return measure_large(self.jobs[0], read(self.jobs[0]), computing)
        return list(measure_alike(self.jobs, computing))


def _one_by_one(task: _Task, outcome: Outcome, computing: Computing) -> Iterator[tuple[list[Job], Outcome]]:
    """What came out of a task; where that is an error, each of its jobs by itself, so that it stays with one."""
    if isinstance(outcome, CkptAuditError) and len(task.jobs) > 1:
        for job in task.jobs:
            yield [job], _tried(_Task([job], 0).measure, computing)
    else:
        yield task.jobs, outcome


def _tried(work: Callable[[Computing], list[Measurement]], computing: Computing) -> Outcome:
    """What came out; whatever a reader or a metric raises stays with the tensors that it was raised for."""
    try:
        return work(computing)
    except CkptAuditError as error:
        return error
    except Exception as error:
        logger.debug("a measurement failed", exc_info=True)
        return MeasurementError(f"{type(error).__name__}: {printable(error)[:300]}")


def _in_workers(tasks: Sequence[_Task], workers: int, computing: Computing) -> Iterator[tuple[list[Job], Outcome]]:
    """On a CPU several at once, each with its share of the threads.

    Decompositions use several threads badly: two that take one each finish sooner. And while one matrix is
    being read, another is measured.
    """
    threads = torch.get_num_threads()
    share = threads // workers
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(share,))
    try:
        with blas_threads(share):
            for task, future in [(task, pool.submit(_tried, task.measure, computing)) for task in tasks]:
                yield from _one_by_one(task, future.result(), computing)
    finally:
        # Whoever stops listening, or is interrupted, does not wait for what has not begun.
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _read_ahead(tasks: Sequence[_Task], computing: Computing) -> Iterator[tuple[list[Job], Outcome]]:
    """Large matrices one after the other, the next being read while one is measured."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        pending = [reader.submit(read, task.jobs[0]) for task in tasks[:1]]
        for index, task in enumerate(tasks):
            reading = pending.pop()
            pending += [reader.submit(read, following.jobs[0]) for following in tasks[index + 1 : index + 2]]
            yield task.jobs, _tried(partial(_measure_read, task.jobs[0], reading), computing)


def _measure_read(job: Job, reading: Future[tuple[Tensor, Tensor]], computing: Computing) -> list[Measurement]:
    return measure_large(job, reading.result(), computing)
