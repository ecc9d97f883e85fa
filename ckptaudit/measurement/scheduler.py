"""Tasks to measurements: in which order and how many at once they are measured on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from ckptaudit.errors import CkptAuditError
from ckptaudit.linalg.threads import blas_threads
from ckptaudit.measurement.batches import SIDE_BY_SIDE, measure_large, read
from ckptaudit.measurement.jobs import Computing, Job, Unit
from ckptaudit.measurement.tasks import Outcome, Task, rows_of, tasks_of, tried
from ckptaudit.metrics import Measurement

WORKERS = SIDE_BY_SIDE
"""Tasks that a CPU measures at once; a large matrix takes a few times its own size of memory."""

Outcomes = list[tuple[list[Job], Outcome]]
"""Of a task: mostly one; of a batch with an error, one for each of its tensors."""


def measure(jobs: Iterable[Job], computing: Computing) -> list[Measurement]:
    """Every wanted metric of every job's matrices, in the order of the jobs.

    Raises CkptAuditError if one of them cannot be measured.
    """
    jobs, found = list(jobs), list[Measurement]()
    for _, outcomes in measure_tasks(tasks_of(jobs, computing.batch_bytes), computing):
        for _, outcome in outcomes:
            if isinstance(outcome, CkptAuditError):
                raise outcome
            found += outcome
    return in_order(found, jobs)


def measure_tasks(tasks: Sequence[Task], computing: Computing) -> Iterator[tuple[Task, Outcomes]]:
    """What comes of each task, as it is done; what cannot be measured is an error in its place."""
    workers = min(WORKERS, len(tasks), torch.get_num_threads()) if computing.device.type == "cpu" else 1
    if workers > 1:
        # The largest first, so that in the end no worker waits long for the other.
        yield from _in_workers(sorted(tasks, key=lambda task: -task.size), workers, computing)
        return
    # NumPy's libraries know nothing of the share of a process beside others.
    with blas_threads(torch.get_num_threads()):
        for task in (task for task in tasks if not task.is_large):
            yield task, task.outcomes(computing)
        yield from _read_ahead([task for task in tasks if task.is_large], computing)


def by_unit(
    jobs: Sequence[Job], computing: Computing
) -> Iterator[tuple[int, list[tuple[Unit, list[Measurement]]]]]:
    """The same by the units that jobs belong to: how many jobs were just done, and which units are now complete.

    What cannot be measured is there without a value, and with the reason.
    """
    tasks = tasks_of(jobs, computing.batch_bytes)
    measured = measure_tasks(tasks, computing)
    yield from gathered(jobs, ((task, rows_of(outcomes)) for task, outcomes in measured))


def gathered(
    jobs: Sequence[Job], measured: Iterable[tuple[Task, list[Measurement]]]
) -> Iterator[tuple[int, list[tuple[Unit, list[Measurement]]]]]:
    """Tasks with their measurements, whoever took them, by unit: a unit is complete when its last job is done."""
    jobs_of: dict[Unit, list[Job]] = {}
    for job in jobs:
        jobs_of.setdefault(job.unit, []).append(job)
    missing = Counter(job.unit for job in jobs)
    found: dict[Unit, list[Measurement]] = {unit: [] for unit in jobs_of}
    for task, rows in measured:
        unit_of = {name: job.unit for job in task.jobs for name in job.tensor.matrix_names()}
        for m in rows:
            found[unit_of[m.tensor]].append(m)
        missing.subtract(job.unit for job in task.jobs)
        complete = [unit for unit in {job.unit: None for job in task.jobs} if not missing[unit]]
        yield len(task.jobs), [(unit, in_order(found.pop(unit), jobs_of[unit])) for unit in complete]


def in_order(found: list[Measurement], jobs: Iterable[Job]) -> list[Measurement]:
    """Measurements in the order of the jobs."""
    # Which matrix is named where several are equally bad must not depend on what was measured first.
    names = {name: i for i, name in enumerate(name for job in jobs for name in job.tensor.matrix_names())}
    return sorted(found, key=lambda m: names[m.tensor])


def _in_workers(tasks: Sequence[Task], workers: int, computing: Computing) -> Iterator[tuple[Task, Outcomes]]:
    """On a CPU several at once, each with its share of the threads.

    Decompositions use several threads badly: two that take one each finish sooner. And while one matrix is
    being read, another is measured.
    """
    threads = torch.get_num_threads()
    share = threads // workers
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(share,))
    try:
        with blas_threads(share):
            for task, future in [(task, pool.submit(task.outcomes, computing)) for task in tasks]:
                yield task, future.result()
    finally:
        # Whoever stops listening, or is interrupted, does not wait for what has not begun.
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _read_ahead(tasks: Sequence[Task], computing: Computing) -> Iterator[tuple[Task, Outcomes]]:
    """Large matrices one after the other, the next being read while one is measured."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        pending = [reader.submit(read, task.jobs[0]) for task in tasks[:1]]
        for index, task in enumerate(tasks):
            reading = pending.pop()
            pending += [reader.submit(read, following.jobs[0]) for following in tasks[index + 1 : index + 2]]
            yield task, [([*task.jobs], tried(partial(_measure_read, task.jobs[0], reading), computing))]


def _measure_read(job: Job, reading: Future[tuple[Tensor, Tensor]], computing: Computing) -> list[Measurement]:
    return measure_large(job, reading.result(), computing)
