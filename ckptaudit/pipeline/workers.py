"""An audit's matrices measured by other processes too: of this machine, or of a Ray cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count as count_from
from pathlib import Path

import msgspec
import torch

from ckptaudit.errors import CkptAuditError, MeasurementError, parameter
from ckptaudit.judging.plan import AuditPlan
from ckptaudit.measurement.batches import SIDE_BY_SIDE
from ckptaudit.measurement.cost import cost_of_task
from ckptaudit.measurement.crew import MOST_WORKERS, TRIES, Crew, Worker, parse_workers
from ckptaudit.measurement.jobs import Job, Unit
from ckptaudit.measurement.process_workers import ProcessWorker, end_process, start_process, threads_environment
from ckptaudit.measurement.ray_workers import RayCluster
from ckptaudit.measurement.scheduler import measure_tasks
from ckptaudit.measurement.shard_plan import ShardPlan, finite, sealed
from ckptaudit.measurement.tasks import Outcome, Task, tasks_of
from ckptaudit.measurement.thread_worker import ThreadWorker
from ckptaudit.metrics import Measurement
from ckptaudit.pipeline.opening import OpenedAudit
from ckptaudit.pipeline.sent_work import (
    Assignment,
    Reply,
    measured,
    message_of,
    open_work,
    outcomes_of,
    reply_of,
    unit_message,
)
from ckptaudit.pipeline.shard_plans import planned_work, sources_of

MESSAGE_S = 0.25
"""Predicted seconds of one core that one message asks for, unless a single task takes longer."""

SHARES = 8
"""Messages for each worker, at least: in the end none waits long for another."""

PAIRING = {"adapter_init"}
"""What is given beside a pair and takes part in pairing."""


@contextmanager
def workers_of(
    opened: OpenedAudit, plan: AuditPlan, process: subprocess.Popen[bytes] | None = None
) -> Iterator[Workers | None]:
    """The workers that the options ask for, ended with the block; None where this process measures by itself.

    A worker's `process`, not yet told of anything, measures beside this one, where the options ask for none and
    the CPU measures; it is ended either way. Raises MeasurementError where there is no Ray, or no cluster at the
    address.
    """
    try:
        crew = _beside(opened, plan, process) if process is not None else None
        if crew is not None:
            with _stopped(crew):
                yield Workers(plan, crew, are_asked_for=False)
        else:
            with _asked_for(opened, plan) as workers:
                yield workers
    finally:
        if process is not None:
            end_process(process)


@contextmanager
def _asked_for(opened: OpenedAudit, plan: AuditPlan) -> Iterator[Workers | None]:
    if not opened.options.workers or not _has_matrices(plan):
        yield None
        return
    count, address = parse_workers(opened.options.workers)
    if count:
        with _stopped(_of_processes(opened, plan, count)) as crew:
            yield Workers(plan, crew)
        return
    cluster = RayCluster(address)
    try:
        with _stopped(_of_actors(opened, plan, cluster)) as crew:
            yield Workers(plan, crew)
    finally:
        cluster.close()


@contextmanager
def _stopped(crew: Crew) -> Iterator[Crew]:
    try:
        yield crew
    finally:
        crew.stop()


class Workers:
    """Measures jobs by a crew: the `source` of `execute`; and units, if the user has asked for workers."""

    def __init__(self, plan: AuditPlan, crew: Crew, *, are_asked_for: bool = True) -> None:
        self._computing, self.crew, self.are_asked_for = plan.effective_computing, crew, are_asked_for

    def __call__(self, jobs: Sequence[Job]) -> Iterator[tuple[list[Job], Outcome]]:
        """What came of jobs, as it is done; those of a task that was lost again and again cannot be measured.

        Workers that nobody has asked for must cost nothing: this process measures what they have lost.
        """
        lost: list[Task] = []
        for tasks, answer in self._asked(self._together(jobs), most=1):
            if isinstance(answer, str):
                lost += tasks
            else:
                yield from self._outcomes(tasks, answer)
        if not lost:
            return
        if not self.are_asked_for:
            for _, found in measure_tasks(lost, self._computing):
                yield from found
            return
        for tasks, answer in self._asked([[task] for task in lost], most=TRIES):
            if isinstance(answer, str):
                yield from (([*task.jobs], MeasurementError(answer)) for task in tasks)
            else:
                yield from self._outcomes(tasks, answer)

    def units(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, list[Measurement] | str]]:
        """The same of units that are more than matrices; a text says why one was never measured."""
        for position, answer in self.crew.run([unit_message(unit) for unit in units]):
            if isinstance(answer, str):
                yield units[position], answer
                continue
            ((part,),) = self._reply(answer).tasks
            yield units[position], part.outcome if isinstance(part.outcome, str) else list(part.outcome)

    def _together(self, jobs: Sequence[Job]) -> list[list[Task]]:
        """Tasks in messages, the longest first, short ones together: to send one takes a millisecond or two."""
        exact = not self._computing.sufficient
        costs = [(cost_of_task(task, exact=exact), task) for task in tasks_of(jobs, self._computing.batch_bytes)]
        costs.sort(key=lambda pair: -pair[0])
        room = min(MESSAGE_S, sum(cost for cost, _ in costs) / (SHARES * self.crew.size))
        messages: list[list[Task]] = []
        filled = room
        for cost, task in costs:
            if filled + cost > room:
                messages.append([])
                filled = 0.0
            messages[-1].append(task)
            filled += cost
        return messages

    def _asked(self, messages: Sequence[list[Task]], *, most: int) -> Iterator[tuple[list[Task], bytes | str]]:
        for position, answer in self.crew.run([message_of(tasks) for tasks in messages], most=most):
            yield messages[position], answer

    def _outcomes(self, tasks: Sequence[Task], answer: bytes) -> Iterator[tuple[list[Job], Outcome]]:
        for task, answers in zip(tasks, self._reply(answer).tasks, strict=True):
            yield from outcomes_of(answers, task)

    def _reply(self, answer: bytes) -> Reply:
        reply = reply_of(answer)
        if reply.shortfall is not None and self._computing.cache is not None:
            self._computing.cache.add_shortfall(reply.shortfall)
        return reply


def _has_matrices(plan: AuditPlan) -> bool:
    return any(unit.scope == "matrix" for unit in plan.units)


def _document(opened: OpenedAudit, plan: AuditPlan, device: str, without: Collection[str] = ()) -> ShardPlan:
    """What is to be opened, on which device, and where bounds suffice: a plan without tasks.

    `without` names what is given beside the pair and need not be opened.
    """
    options = replace(opened.options, command=(), workers="", digest=False, device=device)
    sources = sources_of(opened, with_fingerprints=False)
    return sealed(
        ShardPlan(
            folder=str(Path.cwd()),
            options=replace(options, auxiliary={n: p for n, p in options.auxiliary.items() if n not in without}),
            sources=tuple(source for source in sources if source.name not in without),
            runs=tuple(run.path for run in opened.runs),
            sufficient=finite(plan.effective_computing.sufficient),
            metrics=(),
            tasks=(),
        )
    )


def _spec(document: ShardPlan, threads: int = 0) -> bytes:
    return msgspec.msgpack.encode(Assignment(msgspec.json.encode(document), threads))


def _beside(opened: OpenedAudit, plan: AuditPlan, process: subprocess.Popen[bytes]) -> Crew | None:
    """A thread of this process and another process; None where that one is of no use.

    Each measures at its own pace: two threads of one interpreter wait for each other between their products, and
    small matrices take them longer than a single one.
    """
    threads = torch.get_num_threads() // SIDE_BY_SIDE
    if opened.device.type != "cpu" or opened.options.workers or not threads or not _has_matrices(plan):
        return None
    try:
        document = _document(opened, plan, "cpu", without=opened.options.auxiliary.keys() - PAIRING)
    except CkptAuditError:
        return None  # a file is gone, which is told of the tensors that are missed
    work, spec = planned_work(document, opened), _spec(document, threads)
    ready: Iterator[Worker] = iter((ThreadWorker(partial(measured, work), threads), ProcessWorker(process, spec)))

    def hire() -> Worker:
        return next(ready, None) or ProcessWorker(start_process(is_quiet=True), spec)

    return Crew(hire, SIDE_BY_SIDE)


def _of_processes(opened: OpenedAudit, plan: AuditPlan, count: int) -> Crew:
    spec = _spec(_document(opened, plan, opened.options.device))
    threads = max(1, torch.get_num_threads() // count)
    hired = count_from(0)

    def hire() -> Worker:
        environment = threads_environment(threads)
        if str(opened.device) == "cuda":  # without a number: each takes another one
            environment["CUDA_VISIBLE_DEVICES"] = str(next(hired) % torch.cuda.device_count())
        return ProcessWorker(start_process(environment), spec)

    return Crew(hire, count)


def _of_actors(opened: OpenedAudit, plan: AuditPlan, cluster: RayCluster) -> Crew:
    threads = max(1, torch.get_num_threads() // SIDE_BY_SIDE)
    cpus, gpus = cluster.resources()
    gpu = opened.device.type == "cuda" or (opened.options.device == "auto" and gpus > 0)
    places = gpus if gpu else cpus // threads
    if not places:
        raise MeasurementError(
            f"{parameter('workers')} ray: the cluster has {cpus} CPUs and {gpus} GPUs, and a worker needs "
            f"{'a GPU' if gpu else f'{threads} CPUs'}."
        )
    # An actor sees the one GPU that it has, which is the first to it, whatever number it has here.
    spec = _spec(_document(opened, plan, "cuda" if opened.device.type == "cuda" else opened.options.device))
    return Crew(lambda: cluster.worker(open_work, spec, threads=threads, gpu=gpu), min(places, MOST_WORKERS))
