"""What travels between an audit and its workers: work by names there, what came of it back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import torch

from ckptaudit.errors import CkptAuditError, MeasurementError
from ckptaudit.measurement.base_cache import FactorCache, Shortfall
from ckptaudit.measurement.jobs import Job, Stage, Unit
from ckptaudit.measurement.ray_workers import Measure
from ckptaudit.measurement.scheduler import measure_in_turn
from ckptaudit.measurement.shard_plan import parse_plan
from ckptaudit.measurement.shards import PlannedWork
from ckptaudit.measurement.tasks import Outcome, Outcomes, Task
from ckptaudit.metrics import Measurement
from ckptaudit.pipeline.shard_plans import open_planned


class Assignment(msgspec.Struct, frozen=True):
    """What a worker opens, a plan as a document; and its threads, 0 for as many as its environment says."""

    plan: bytes
    threads: int = 0


class SentJob(msgspec.Struct, frozen=True):
    """A job by names."""

    run: str
    tensor: str
    metrics: tuple[str, ...]
    stage: Stage
    only: tuple[str, ...]


class Message(msgspec.Struct, frozen=True):
    """The jobs of tasks of matrices, or a unit that is more than them."""

    tasks: tuple[tuple[SentJob, ...], ...] = ()
    unit: Unit | None = None


class Answer(msgspec.Struct, frozen=True):
    """What came of jobs, by their positions in a task; a text where they could not be measured."""

    jobs: tuple[int, ...]
    outcome: tuple[Measurement, ...] | str


class Reply(msgspec.Struct, frozen=True):
    """What came of each task of a message, and what the worker's cache could not keep meanwhile."""

    tasks: tuple[tuple[Answer, ...], ...]
    shortfall: Shortfall | None = None


def message_of(tasks: Sequence[Task]) -> bytes:
    """Tasks by names."""
    return msgspec.msgpack.encode(Message(tuple(tuple(map(_sent, task.jobs)) for task in tasks)))


def unit_message(unit: Unit) -> bytes:
    """A unit, which names all that it is."""
    return msgspec.msgpack.encode(Message(unit=unit))


def reply_of(message: bytes) -> Reply:
    """What a worker has sent back."""
    return msgspec.msgpack.decode(message, type=Reply)


def outcomes_of(answers: Sequence[Answer], task: Task) -> Outcomes:
    """What came of a task's own jobs."""
    return [([task.jobs[at] for at in answer.jobs], _received(answer)) for answer in answers]


def open_work(assignment: bytes) -> tuple[str, Measure]:
    """What a worker opens: why it can measure nothing, or "", and the function that measures."""
    sent = msgspec.msgpack.decode(assignment, type=Assignment)
    if sent.threads:
        torch.set_num_threads(sent.threads)
    try:
        plan = parse_plan(sent.plan, "the plan that was sent")
        if Path(plan.folder).is_dir():
            os.chdir(plan.folder)  # for good: this process has no other purpose
        work = open_planned(plan)
    except CkptAuditError as error:
        reason = f"no worker can measure: {error.sentence}"
        return reason, lambda task: task
    return "", partial(measured, work, cache=work.computing.cache)


def measured(work: PlannedWork, message: bytes, cache: FactorCache | None = None) -> bytes:
    """What came of a message, and what this process's `cache` could not keep, if another one has to be told."""
    sent = msgspec.msgpack.decode(message, type=Message)
    before = cache.shortfall if cache is not None else None
    if sent.unit is not None:
        found: tuple[tuple[Answer, ...], ...] = ((Answer((), tuple(work.inputs.measure(sent.unit))),),)
    else:
        tasks = [Task(tuple(_job(work, job) for job in jobs)) for jobs in sent.tasks]
        found = tuple(_answers(task, outcomes) for task, outcomes in measure_in_turn(tasks, work.computing))
    told = cache.shortfall.since(before) if cache is not None and before is not None else None
    return msgspec.msgpack.encode(Reply(found, told))


def _job(work: PlannedWork, sent: SentJob) -> Job:
    tensor = work.tensor(sent.run, sent.tensor)
    unit = Unit(sent.run, tensor.place.subject)
    return Job(tensor, frozenset(sent.metrics), unit, sent.stage, frozenset(sent.only))


def _sent(job: Job) -> SentJob:
    return SentJob(job.unit.run, job.tensor.name, tuple(sorted(job.metrics)), job.stage, tuple(sorted(job.only)))


def _answers(task: Task, outcomes: Outcomes) -> tuple[Answer, ...]:
    at = {id(job): position for position, job in enumerate(task.jobs)}
    return tuple(Answer(tuple(at[id(job)] for job in of), _sendable(outcome)) for of, outcome in outcomes)


def _sendable(outcome: Outcome) -> tuple[Measurement, ...] | str:
    return outcome.sentence if isinstance(outcome, CkptAuditError) else tuple(outcome)


def _received(answer: Answer) -> Outcome:
    return MeasurementError(answer.outcome) if isinstance(answer.outcome, str) else list(answer.outcome)
