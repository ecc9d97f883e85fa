"""Tasks to measurements: in which order and how many at once they are measured on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from ckptaudit.errors import CkptAuditError
from ckptaudit.linalg.precision import full_precision
from ckptaudit.linalg.threads import blas_threads
from ckptaudit.measurement.batches import SIDE_BY_SIDE, measure_large
from ckptaudit.measurement.jobs import Computing, Job
from ckptaudit.measurement.reading import read_large
from ckptaudit.measurement.streams import side_by_side, take_stream
from ckptaudit.measurement.tasks import Outcome, Outcomes, Task, tasks_of, tried
from ckptaudit.metrics import Measurement

WORKERS = SIDE_BY_SIDE
"""Tasks that a CPU measures at once; a large matrix takes a few times its own size of memory."""


SHORT_TASK = 2**19
"""Entries of a matrix up to which bounds are found sooner by one thread than by two: numbers take more of BLAS."""


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


def outcomes(jobs: Iterable[Job], computing: Computing) -> Iterator[tuple[list[Job], Outcome]]:
    """The same bit by bit, as it is done: large matrices one by one, small ones of equal shape together.

    What cannot be measured comes as an error in its place, and stops none of the others.
    """
    for _, found in measure_tasks(tasks_of(jobs, computing.batch_bytes), computing):
        yield from found


def measure_tasks(tasks: Sequence[Task], computing: Computing) -> Iterator[tuple[Task, Outcomes]]:
    """What comes of each task, as it is done; what cannot be measured is an error in its place."""
    with full_precision():
        yield from _measured(tasks, computing)


def _measured(tasks: Sequence[Task], computing: Computing) -> Iterator[tuple[Task, Outcomes]]:
    workers = min(_at_once(tasks, computing), len(tasks), torch.get_num_threads())
    if workers > 1:
        share = torch.get_num_threads() // workers
        # The largest first, so that in the end no worker waits long for the other.
        ordered = sorted(tasks, key=lambda task: -task.size)
        for short, at_once in ((False, workers), (True, 1)):
            if chosen := [task for task in ordered if _is_short(task, computing) == short]:
                yield from _in_workers(chosen, at_once, share, computing)
        return
    # NumPy's libraries know nothing of the share of a process beside others.
    with blas_threads(torch.get_num_threads()):
        for task in (task for task in tasks if not task.is_large):
            yield task, task.outcomes(computing)
        yield from _read_ahead([task for task in tasks if task.is_large], computing)


def measure_in_turn(tasks: Iterable[Task], computing: Computing) -> Iterator[tuple[Task, Outcomes]]:
    """The same by this thread alone, one after the other: what a worker does with what it is sent."""
    with full_precision(), blas_threads(torch.get_num_threads()):
        for task in tasks:
            yield task, task.outcomes(computing)


def _at_once(tasks: Sequence[Task], computing: Computing) -> int:
    if computing.device.type == "cpu":
        return WORKERS
    return side_by_side(computing.device, max((task.most_at_once for task in tasks), default=0))


def _is_short(task: Task, computing: Computing) -> bool:
    """Whether two threads would take longer than one, as each has to wait for the other between its products."""
    return (
        computing.device.type == "cpu"
        and bool(computing.sufficient)
        and task.is_large
        and task.most_at_once < SHORT_TASK
    )


def in_order(found: list[Measurement], jobs: Iterable[Job]) -> list[Measurement]:
    """Measurements in the order of the jobs and their matrices.

    Which matrix is named where several are equally bad must not depend on what was measured first.
    """
    names = {name: i for i, name in enumerate(name for job in jobs for name in job.tensor.matrix_names())}
    return sorted(found, key=lambda m: names[m.tensor])


def _in_workers(
    tasks: Sequence[Task], workers: int, share: int, computing: Computing
) -> Iterator[tuple[Task, Outcomes]]:
    """Several at once, each with its `share` of the threads, and on a card with a stream of its own.

    Decompositions use several threads badly, and a card as well: those that share it finish sooner. And while one
    matrix is being read, another is measured.
    """
    threads = torch.get_num_threads()
    places = iter(range(workers))
    pool = ThreadPoolExecutor(workers, initializer=_begin, initargs=(share, computing.device, places))
    try:
        with blas_threads(share):
            for task, future in [(task, pool.submit(task.outcomes, computing)) for task in tasks]:
                yield task, future.result()
    finally:
        # Whoever stops listening, or is interrupted, does not wait for what has not begun.
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _begin(threads: int, device: torch.device, places: Iterator[int]) -> None:
    torch.set_num_threads(threads)
    if device.type != "cpu":
        take_stream(device, next(places))


def _read_ahead(tasks: Sequence[Task], computing: Computing) -> Iterator[tuple[Task, Outcomes]]:
    """Large matrices one after the other, the next being read while one is measured."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        pending = [reader.submit(read_large, task.jobs[0]) for task in tasks[:1]]
        for index, task in enumerate(tasks):
            reading = pending.pop()
            pending += [reader.submit(read_large, following.jobs[0]) for following in tasks[index + 1 : index + 2]]
            yield task, [([*task.jobs], tried(partial(_measure_read, task.jobs[0], reading), computing))]


def _measure_read(job: Job, reading: Future[tuple[Tensor, Tensor]], computing: Computing) -> list[Measurement]:
    return measure_large(job, reading.result(), computing)
