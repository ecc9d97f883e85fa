"""A plan's tasks cut into shards of equal predicted cost, and one of them measured."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from ckptaudit.errors import ShardError, printable
from ckptaudit.measurement.jobs import Computing, Job, Unit, applies
from ckptaudit.measurement.rounds import first_round
from ckptaudit.measurement.scheduler import measure_tasks
from ckptaudit.measurement.shard_plan import ShardPlan
from ckptaudit.measurement.tasks import Task, rows_of
from ckptaudit.measurement.units import UnitInputs
from ckptaudit.metrics import Measurement
from ckptaudit.pairing import AlignedTensor

MAX_SHARDS = 2**16


class Shard(msgspec.Struct, frozen=True):
    """The share `index` of `count`, counted from 0."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True, slots=True)
class UnitRows:
    """What was measured of a unit by a task; of a unit of matrices, the task's own tensors alone."""

    unit: Unit
    rows: list[Measurement]


def parse_shard(text: str) -> Shard:
    """`I/N` with I from 0 to N - 1, as Kubernetes counts the pods of an indexed job. Raises ShardError."""
    index, _, count = text.partition("/")
    said = f"shard {printable(text[:40])}"
    if not all(part.isascii() and part.isdecimal() and len(part) < 7 for part in (index, count)):
        raise ShardError(f"{said}: not I/N with I from 0 to N - 1, such as 0/8 to 7/8.")
    shard = Shard(int(index), int(count))
    if not 0 < shard.count <= MAX_SHARDS:
        raise ShardError(f"{said}: an audit is cut into 1 to {MAX_SHARDS:,} shards.")
    if shard.index >= shard.count:
        raise ShardError(
            f"{said}: {shard.count} shards are counted from 0, so 0/{shard.count} to "
            f"{shard.count - 1}/{shard.count}; where an array's tasks are counted from 1, pass one less."
        )
    return shard


def cut(costs: Sequence[float], count: int) -> list[list[int]]:
    """Positions of the costs in `count` shares of nearly equal sums: each in turn goes where least is so far.

    The longest processing time first: no share is above 4/3 - 1/(3 count) times the best possible (Graham 1969),
    and none more than one task above another. Each share is in order.
    """
    least = [(0.0, share) for share in range(count)]
    shares: list[list[int]] = [[] for _ in range(count)]
    for position in sorted(range(len(costs)), key=lambda p: (-costs[p], p)):
        held, share = heapq.heappop(least)
        shares[share].append(position)
        heapq.heappush(least, (held + costs[position], share))
    return shares


@dataclass(frozen=True)
class PlannedWork:
    """A plan beside what was opened for it: names become tensors again."""

    plan: ShardPlan
    inputs: UnitInputs
    computing: Computing
    known: dict[int, list[list[int]]] = field(default_factory=dict)
    """Shares by their number, once cut."""

    def share(self, shard: Shard) -> list[int]:
        """Positions of a shard's tasks."""
        return self.shares(shard.count)[shard.index]

    def shares(self, count: int) -> list[list[int]]:
        """Positions of the tasks of every shard."""
        if count not in self.known:
            self.known[count] = cut([task.cost for task in self.plan.tasks], count)
        return self.known[count]

    def measure(self, positions: Sequence[int]) -> Iterator[tuple[int, list[UnitRows]]]:
        """Tasks by position, each with what was measured, as they are done."""
        tasks = {p: self.task(p) for p in positions if self.plan.tasks[p].tensors}
        position_of = {id(task): p for p, task in tasks.items()}
        yield from ((p, self.units(p)) for p in positions if self.plan.tasks[p].units)
        for task, outcomes in measure_tasks(list(tasks.values()), self.computing):
            yield position_of[id(task)], by_units(task, rows_of(outcomes))

    def units(self, position: int) -> list[UnitRows]:
        """What is measured of units that are more than matrices."""
        return [UnitRows(unit, self.inputs.measure(unit)) for unit in self.plan.tasks[position].units]

    def task(self, position: int) -> Task:
        """The tensors of a task and what is wanted of them; `lacks` tells of names that are not there."""
        planned = self.plan.tasks[position]
        metrics = frozenset(self.plan.metrics[planned.metrics])
        run = self.plan.runs[planned.run]
        tensors = [self._tensors[run].get(name) for name in planned.tensors]
        jobs = [Job(t, metrics, Unit(run, t.place.subject)) for t in tensors if t is not None]
        return Task(tuple(first_round(jobs, self.computing)))

    def tensor(self, run: str, name: str) -> AlignedTensor:
        """A tensor by its names. Raises KeyError where there is none."""
        return self._tensors[run][name]

    def lacks(self) -> str:
        """A tensor that the plan names and no run has; empty if there is none."""
        names = ((self.plan.runs[task.run], name) for task in self.plan.tasks for name in task.tensors)
        return next((name for run, name in names if name not in self._tensors.get(run, {})), "")

    @cached_property
    def _tensors(self) -> Mapping[str, Mapping[str, AlignedTensor]]:
        return {run.path: {tensor.name: tensor for tensor in run.pair.aligned} for run in self.inputs.runs}


def by_units(task: Task, rows: Sequence[Measurement]) -> list[UnitRows]:
    """A task's measurements by the units of its tensors."""
    found: dict[Unit, list[Measurement]] = {job.unit: [] for job in task.jobs}
    unit_of = {name: job.unit for job in task.jobs for name in job.tensor.matrix_names()}
    for row in rows:
        found[unit_of[row.tensor]].append(row)
    return [UnitRows(unit, rows) for unit, rows in found.items()]


def expected(task: Task) -> set[tuple[str, str, str]]:
    """Run, matrix and metric of every measurement that a task of matrices comes to."""
    return {
        (job.unit.run, name, metric)
        for job in task.jobs
        for metric in job.metrics
        if applies(metric, job.tensor)
        for name in job.tensor.matrix_names()
    }
