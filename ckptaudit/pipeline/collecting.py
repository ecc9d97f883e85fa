"""The parts of all shards brought together: never green where one is missing, doubled, damaged or foreign."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from msgspec import structs

from ckptaudit.errors import ShardError, Spelling, printable, python_spelling
from ckptaudit.judging.config import Config, load_config
from ckptaudit.judging.plan import AuditPlan
from ckptaudit.measurement.jobs import Job, Unit
from ckptaudit.measurement.rounds import Source
from ckptaudit.measurement.scheduler import outcomes
from ckptaudit.measurement.shard_plan import VERSION, ShardPlan
from ckptaudit.measurement.shards import MAX_SHARDS, PlannedWork, Shard, UnitRows, expected
from ckptaudit.measurement.store import MeasurementStore
from ckptaudit.measurement.tasks import Outcome
from ckptaudit.measurement.units import without_value
from ckptaudit.metrics import Measurement
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline.api import PreparedAudit, conclude, prepare
from ckptaudit.pipeline.execution import execute
from ckptaudit.pipeline.shard_plans import folder_of, planned_work, refuse_changes, shard_plan
from ckptaudit.pipeline.workers import workers_of
from ckptaudit.results.records import AuditResult


def collected_result(
    plan: ShardPlan,
    parts: Sequence[Path],
    *,
    command: Sequence[str] = (),
    spelling: Spelling = python_spelling,
    with_spectra: bool = False,
    digest: bool = False,
) -> AuditResult:
    """The result of an audit from its parts, which are absolute paths; `digest` as in AuditOptions.

    What needs no shard, and what rests on the measurements of all, is measured here. Raises CkptAuditError, also
    where the plan would not be the same any more: a side, the checks or the configuration have changed.
    """
    with folder_of(plan):
        prepared = _prepared(plan, replace(plan.options, command=tuple(command), digest=digest))
        work = planned_work(plan, prepared.opened)
        collected = collect_parts(work, parts)
        with workers_of(prepared.opened, prepared.plan) as workers:
            further = workers or partial(outcomes, computing=prepared.plan.effective_computing)
            source = PartOutcomes(further, known_outcomes(work, collected))
            measurements = execute(prepared.plan, stored(prepared.plan, work, collected), source=source)
        result = conclude(prepared, measurements, spelling=spelling, with_spectra=with_spectra)
    about = result.about
    if about is not None and collected.devices:
        about = structs.replace(about, device=" and ".join(sorted(collected.devices)))
    return structs.replace(result, about=about, notes=(*result.notes, *collected.notes))


def _prepared(plan: ShardPlan, options: AuditOptions) -> PreparedAudit:
    config = load_config(Path(plan.config)) if plan.config else Config()
    prepared = prepare(options, config, [Path(name) for name in plan.checks])
    refuse_changes(plan, prepared.opened)
    again = shard_plan(prepared.opened, prepared.plan, config=plan.config, checks=plan.checks, folder=plan.folder)
    if again.digest != plan.digest:
        raise ShardError(
            "the plan was made by other checks, another configuration or other contents than are there now; plan "
            "and measure again."
        )
    return prepared


@dataclass
class Collected:
    """What the parts hold: measurements by task, and of other tasks why there are none."""

    found: dict[int, list[UnitRows]] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def collect_parts(work: PlannedWork, paths: Sequence[Path]) -> Collected:
    """Read the parts strictly. A task that not exactly one sound part holds is refused, and why."""
    return _Collector(work).collected(paths)


@dataclass
class _Collector:
    work: PlannedWork
    held: dict[int, list[tuple[str, list[UnitRows]]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    damaged: dict[int, str] = field(default_factory=dict)
    shards: list[Shard] = field(default_factory=list)
    devices: dict[str, None] = field(default_factory=dict)
    versions: set[tuple[tuple[str, str], ...]] = field(default_factory=set)

    def collected(self, paths: Sequence[Path]) -> Collected:
        for path in paths:
            try:
                self._add(path)
            except ShardError as error:
                self.problems.append(error.sentence.rstrip("."))
        out = Collected(devices=tuple(self.devices))
        for position in range(len(self.work.plan.tasks)):
            held = self.held.get(position, [])
            if len(held) == 1:
                out.found[position] = held[0][1]
            else:
                out.refused[position] = self._why(position, [name for name, _ in held])
        out.notes = (*dict.fromkeys(out.refused.values()), *self._notes())
        return out

    def _add(self, path: Path) -> None:
        from ckptaudit.measurement.parts import read_part

        head, rows = read_part(path, self._most_rows)
        name = printable(path)
        if head.plan != self.work.plan.digest:
            raise ShardError(f"{name}: measured for another plan.")
        if head.version != VERSION:
            raise ShardError(f"{name}: measured by version {printable(head.version)[:50]}, this is {VERSION}.")
        if not 0 <= head.shard.index < head.shard.count <= MAX_SHARDS:
            raise ShardError(f"{name}: of shard {head.shard}, which is none.")
        by_task: dict[int, dict[int, list[Measurement]]] = {}
        for row in rows:
            by_task.setdefault(row.task, {}).setdefault(row.unit, []).append(row.measurement)
        positions = self.work.share(head.shard)
        if not by_task.keys() <= set(positions):
            raise ShardError(f"{name}: holds tasks that are not of shard {head.shard}.")
        self.shards.append(head.shard)
        self.devices[head.device] = None
        self.versions.add(tuple(sorted(head.versions.items())))
        for position in positions:
            found = checked(self.work, position, by_task.get(position, {}))
            if found is None:
                self.damaged[position] = f"{name}: does not hold what its plan asks of it"
            else:
                self.held.setdefault(position, []).append((name, found))

    @cached_property
    def _most_rows(self) -> int:
        """More measurements than any part of the plan holds."""
        wanted = max(map(len, self.work.plan.metrics), default=0) + 32
        owned = sum(len(run.pair.owners) for run in self.work.inputs.runs)
        return wanted * owned + sum(len(task.units) for task in self.work.plan.tasks)

    def _why(self, position: int, names: Sequence[str]) -> str:
        if len(names) > 1:
            return f"measured twice, by {names[0]} and {names[1]}; collect one part of each shard"
        if position in self.damaged:
            return self.damaged[position]
        missing = self._owner.get(position)
        which = f"shard {missing}" if missing else "the shard that holds it"
        also = f" ({'; '.join(self.problems[:2])})" if self.problems else ""
        return f"not measured: the part of {which} is missing{also}"

    @cached_property
    def _owner(self) -> dict[int, Shard]:
        """The shard of each task, where the parts that are there agree into how many the plan was cut."""
        counts = {shard.count for shard in self.shards}
        if len(counts) != 1:
            return {}
        (count,) = counts
        return {p: Shard(i, count) for i, share in enumerate(self.work.shares(count)) for p in share}

    def _notes(self) -> Iterator[str]:
        if len(self.versions) > 1:
            yield "the shards were measured with different versions of torch, numpy or scipy"


def checked(work: PlannedWork, position: int, by_unit: Mapping[int, list[Measurement]]) -> list[UnitRows] | None:
    """A task's measurements by unit, if they are exactly those that the plan asks for; else None."""
    planned = work.plan.tasks[position]
    if planned.units:
        sound = all(0 <= at < len(planned.units) for at in by_unit)
        found = [UnitRows(unit, by_unit.get(at, [])) for at, unit in enumerate(planned.units)]
        return found if sound and all(_fits(work, unit) for unit in found) else None
    task = work.task(position)
    units = list(dict.fromkeys(job.unit for job in task.jobs))
    rows = [m for at in sorted(by_unit) for m in by_unit[at]]
    keys = [(m.tuned, m.tensor, m.metric) for m in rows]
    if len(keys) != len(set(keys)) or set(keys) != expected(task) or not all(at < len(units) for at in by_unit):
        return None
    names = {name: job.unit for job in task.jobs for name in job.tensor.matrix_names()}
    return [UnitRows(unit, [m for m in rows if names[m.tensor] == unit]) for unit in units]


def _fits(work: PlannedWork, found: UnitRows) -> bool:
    unit = found.unit
    if unit.scope != "runs":
        return [(m.tuned, m.tensor, m.metric) for m in found.rows] == [(unit.run, unit.subject, unit.metric)]
    runs = {run.path: run for run in work.inputs.group_of(unit).runs}
    keys = [(m.tuned, m.tensor, m.metric) for m in found.rows]
    return len(keys) == len(set(keys)) and all(
        run in runs and runs[run].pair.owners.get(name) == unit.subject for run, name, _ in keys
    )


@dataclass(frozen=True)
class PartOutcomes:
    """What came of jobs, as the parts have it; numbers that bounds did not spare are measured here."""

    further: Source
    known: Mapping[tuple[str, str], Outcome]
    """By run and tensor, what its task gave in the first round."""

    def __call__(self, jobs: Sequence[Job]) -> Iterator[tuple[list[Job], Outcome]]:
        """Those of a round."""
        yield from (([job], self.known[_key(job)]) for job in jobs if job.stage != "numbers")
        left = [job for job in jobs if job.stage == "numbers"]
        if left:
            yield from self.further(left)


def known_outcomes(work: PlannedWork, collected: Collected) -> dict[tuple[str, str], Outcome]:
    """What is known of each tensor: its measurements, or why there are none."""
    known: dict[tuple[str, str], Outcome] = {}
    for position, planned in enumerate(work.plan.tasks):
        if not planned.tensors:
            continue
        rows: dict[str, list[Measurement]] = {}
        for found in collected.found.get(position, ()):
            for m in found.rows:
                rows.setdefault(m.tensor, []).append(m)
        reason = collected.refused.get(position)
        for job in work.task(position).jobs:
            own = [m for name in job.tensor.matrix_names() for m in rows.get(name, ())]
            known[_key(job)] = own if reason is None else ShardError(reason)
    return known


def _key(job: Job) -> tuple[str, str]:
    return job.unit.run, job.tensor.name


def stored(plan: AuditPlan, work: PlannedWork, collected: Collected) -> MeasurementStore:
    """The measurements of units that are more than matrices; what is missing is there without a value, and why."""
    store = MeasurementStore()
    torn: dict[str, str] = {}
    for position, planned in enumerate(work.plan.tasks):
        reason = collected.refused.get(position)
        if reason is not None:
            if planned.tensors:
                torn.setdefault(work.plan.runs[planned.run], reason)
            for unit in planned.units:
                store.take(unit, partial(work.inputs.unmeasured, unit, reason))
        elif planned.units:
            for found in collected.found[position]:
                store.take(found.unit, partial(list, found.rows))
    for unit in plan.units:
        # What all tensors show together cannot be told where some of them were not measured.
        if unit.scope == "run" and unit.run in torn:
            store.take(unit, partial(_one, unit, torn[unit.run]))
    return store


def _one(unit: Unit, reason: str) -> list[Measurement]:
    return [without_value(unit, reason)]
