"""An audit's matrices measured by other processes: of this machine, or of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count as count_from
from pathlib import Path

import msgspec
import torch

from ckptaudit.errors import CkptAuditError, MeasurementError, parameter
from ckptaudit.judging.plan import AuditPlan
from ckptaudit.measurement.batches import SIDE_BY_SIDE
from ckptaudit.measurement.cost import cost_of_task
from ckptaudit.measurement.crew import MOST_WORKERS, Crew, Worker, parse_workers
from ckptaudit.measurement.jobs import Job, Stage, Unit
from ckptaudit.measurement.process_workers import ProcessWorker, threads_environment
from ckptaudit.measurement.ray_workers import Measure, RayCluster
from ckptaudit.measurement.scheduler import measure_tasks
from ckptaudit.measurement.shard_plan import ShardPlan, finite, parse_plan, sealed
from ckptaudit.measurement.shards import PlannedWork
from ckptaudit.measurement.tasks import Outcome, Task, tasks_of
from ckptaudit.metrics import Measurement
from ckptaudit.pipeline.opening import OpenedAudit
from ckptaudit.pipeline.shard_plans import open_planned, sources_of

MODULE = "ckptaudit.pipeline.worker"


class SentJob(msgspec.Struct, frozen=True):
    """A job by names."""

    run: str
    tensor: str
    metrics: tuple[str, ...]
    stage: Stage
    only: tuple[str, ...]


class SentTask(msgspec.Struct, frozen=True):
    """A task of matrices, or a unit that is more than them."""

    jobs: tuple[SentJob, ...] = ()
    unit: Unit | None = None


class Answer(msgspec.Struct, frozen=True):
    """What came of jobs, by position; a text where they could not be measured."""

    jobs: tuple[int, ...]
    outcome: tuple[Measurement, ...] | str


@contextmanager
def workers_of(opened: OpenedAudit, plan: AuditPlan) -> Iterator[Workers | None]:
    """The workers that the options ask for, ended with the block; None where this process measures by itself.

    Raises MeasurementError where there is no Ray, or no cluster at the address.
    """
    if not opened.options.workers or not any(unit.scope == "matrix" for unit in plan.units):
        yield None
        return
    count, address = parse_workers(opened.options.workers)
    if count:
        crew = _of_processes(opened, plan, count)
        try:
            yield Workers(plan, crew)
        finally:
            crew.stop()
        return
    cluster = RayCluster(address)
    try:
        crew = _of_actors(opened, plan, cluster)
        try:
            yield Workers(plan, crew)
        finally:
            crew.stop()
    finally:
        cluster.close()


def open_work(spec: bytes) -> tuple[str, Measure]:
    """What a worker opens: why it can measure nothing, or "", and the function that measures."""
    try:
        plan = parse_plan(spec, "the plan that was sent")
        if Path(plan.folder).is_dir():
            os.chdir(plan.folder)  # for good: this process has no other purpose
        work = open_planned(plan)
    except CkptAuditError as error:
        reason = f"no worker can measure: {error.sentence}"
        return reason, lambda task: task
    return "", lambda task: measured(work, task)


def measured(work: PlannedWork, message: bytes) -> bytes:
    """What came of a task that was sent."""
    sent = msgspec.msgpack.decode(message, type=SentTask)
    if sent.unit is not None:
        return msgspec.msgpack.encode([Answer((), tuple(work.inputs.measure(sent.unit)))])
    jobs = [
        Job(tensor, frozenset(job.metrics), Unit(job.run, tensor.place.subject), job.stage, frozenset(job.only))
        for job in sent.jobs
        for tensor in (work.tensor(job.run, job.tensor),)
    ]
    ((task, outcomes),) = measure_tasks([Task(tuple(jobs))], work.computing)
    at = {id(job): position for position, job in enumerate(task.jobs)}
    return msgspec.msgpack.encode(
        [Answer(tuple(at[id(job)] for job in of), _sendable(outcome)) for of, outcome in outcomes]
    )


class Workers:
    """Measures jobs and units by a crew: the `source` of `execute`."""

    def __init__(self, plan: AuditPlan, crew: Crew) -> None:
        self._computing, self.crew = plan.effective_computing, crew

    def __call__(self, jobs: Sequence[Job]) -> Iterator[tuple[list[Job], Outcome]]:
        """What came of jobs, as it is done; those of a task that was lost again and again cannot be measured."""
        exact = not self._computing.sufficient
        tasks = tasks_of(jobs, self._computing.batch_bytes)
        tasks.sort(key=lambda task: -cost_of_task(task, exact=exact))
        messages = [msgspec.msgpack.encode(SentTask(jobs=tuple(map(_sent, task.jobs)))) for task in tasks]
        for position, answer in self.crew.run(messages):
            task = tasks[position]
            if isinstance(answer, str):
                yield [*task.jobs], MeasurementError(answer)
                continue
            for part in msgspec.msgpack.decode(answer, type=list[Answer]):
                yield [task.jobs[at] for at in part.jobs], _received(part)

    def units(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, list[Measurement] | str]]:
        """The same of units that are more than matrices; a text says why one was never measured."""
        messages = [msgspec.msgpack.encode(SentTask(unit=unit)) for unit in units]
        for position, answer in self.crew.run(messages):
            if isinstance(answer, str):
                yield units[position], answer
                continue
            (part,) = msgspec.msgpack.decode(answer, type=list[Answer])
            yield units[position], part.outcome if isinstance(part.outcome, str) else list(part.outcome)


def _received(answer: Answer) -> Outcome:
    return MeasurementError(answer.outcome) if isinstance(answer.outcome, str) else list(answer.outcome)


def _sent(job: Job) -> SentJob:
    return SentJob(job.unit.run, job.tensor.name, tuple(sorted(job.metrics)), job.stage, tuple(sorted(job.only)))


def _sendable(outcome: Outcome) -> tuple[Measurement, ...] | str:
    return outcome.sentence if isinstance(outcome, CkptAuditError) else tuple(outcome)


def _spec(opened: OpenedAudit, plan: AuditPlan, device: str) -> bytes:
    """What is to be opened, on which device, and where bounds suffice: a plan without tasks."""
    sources = tuple(sources_of(opened, with_fingerprints=False))
    return msgspec.json.encode(
        sealed(
            ShardPlan(
                folder=str(Path.cwd()),
                options=replace(opened.options, command=(), workers="", digest=False, device=device),
                sources=sources,
                runs=tuple(run.path for run in opened.runs),
                sufficient=finite(plan.effective_computing.sufficient),
                metrics=(),
                tasks=(),
            )
        )
    )


def _of_processes(opened: OpenedAudit, plan: AuditPlan, count: int) -> Crew:
    spec = _spec(opened, plan, opened.options.device)
    threads = max(1, torch.get_num_threads() // count)
    hired = count_from(0)

    def hire() -> Worker:
        environment = threads_environment(threads)
        if str(opened.device) == "cuda":  # without a number: each takes another one
            environment["CUDA_VISIBLE_DEVICES"] = str(next(hired) % torch.cuda.device_count())
        return ProcessWorker(MODULE, spec, environment)

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
    spec = _spec(opened, plan, "cuda" if opened.device.type == "cuda" else opened.options.device)
    return Crew(lambda: cluster.worker(open_work, spec, threads=threads, gpu=gpu), min(places, MOST_WORKERS))
