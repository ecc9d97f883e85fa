"""A planned audit as the document that shards are measured from, and back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ckptaudit.checkpoints import Checkpoint, fingerprint
from ckptaudit.checkpoints.json_files import reason
from ckptaudit.errors import CheckpointError, ShardError, parameter, printable
from ckptaudit.foreign_files import is_regular, stamp_of
from ckptaudit.foreign_files.places import Place
from ckptaudit.judging.plan import AuditPlan
from ckptaudit.measurement.cost import cost_of_task, cost_of_unit
from ckptaudit.measurement.jobs import Computing, Unit
from ckptaudit.measurement.rounds import first_round
from ckptaudit.measurement.shard_plan import PinnedFile, PlannedTask, ShardPlan, Source, finite, sealed
from ckptaudit.measurement.shards import PlannedWork
from ckptaudit.measurement.tasks import tasks_of
from ckptaudit.measurement.units import UnitInputs
from ckptaudit.pipeline.execution import SPREAD
from ckptaudit.pipeline.opening import OpenedAudit, open_audit

UNUSED = ("rollouts", "scalars")
"""Inputs that no shard reads."""


def shard_plan(
    opened: OpenedAudit, plan: AuditPlan, *, config: str = "", checks: Sequence[str] = (), folder: str = ""
) -> ShardPlan:
    """What the plan measures, as a document. Raises CheckpointError if a file is gone."""
    computing = plan.effective_computing
    metrics: dict[tuple[str, ...], int] = {}
    runs = tuple(run.path for run in opened.runs)
    tasks = [*_matrices(plan, runs, metrics), *_others(plan, runs)]
    return sealed(
        ShardPlan(
            folder=folder or str(Path.cwd()),
            options=replace(opened.options, command=(), digest=False),
            config=config,
            checks=tuple(checks),
            sources=tuple(sources_of(opened)),
            runs=runs,
            sufficient=finite(computing.sufficient),
            metrics=tuple(metrics),
            tasks=tuple(sorted(tasks, key=lambda task: -task.cost)),
        )
    )


def open_planned(plan: ShardPlan) -> PlannedWork:
    """Open what a plan was made for. Raises CkptAuditError, also where a side is not what it was then."""
    given = {name: path for name, path in plan.options.auxiliary.items() if name not in UNUSED}
    opened = open_audit(replace(plan.options, auxiliary=given, rollouts=(), scalars=(), against=None, digest=False))
    refuse_changes(plan, opened)
    return planned_work(plan, opened)


@contextmanager
def folder_of(plan: ShardPlan) -> Iterator[None]:
    """Within it, paths that are not absolute begin where they did when the plan was made."""
    before = Path.cwd()
    try:
        if Path(plan.folder).is_dir():
            os.chdir(plan.folder)
        yield
    finally:
        os.chdir(before)


def planned_places(plan: ShardPlan) -> list[Path]:
    """The files and folders here that a plan was made for, and that are read again to measure or to judge."""
    options = plan.options
    named = [plan.config, *plan.checks, *options.logs[0], *options.logs[1], options.against or ""]
    named += [path for source in plan.sources for path in (source.path, *(file.path for file in source.files))]
    folder = Path(plan.folder)
    return [folder / name if folder.is_dir() else Path(name) for name in named if name]


def planned_work(plan: ShardPlan, opened: OpenedAudit) -> PlannedWork:
    """A plan beside what was opened for it. Raises ShardError where it names tensors that are not there."""
    inputs = UnitInputs(opened.runs, opened.groups, opened.auxiliary, opened.device)
    computing = Computing(opened.device, opened.batch_bytes, plan.bounds, opened.cache)
    work = PlannedWork(plan, inputs, computing)
    lacking = work.lacks()
    if lacking:
        raise ShardError(f"the plan names {printable(lacking)[:200]}, which is not there; plan again.")
    return work


def refuse_changes(plan: ShardPlan, opened: OpenedAudit) -> None:
    """Raise ShardError where a file of what was opened is not the one that the plan was made for."""
    given = {(name, path): files for name, path, _, files in _opened(opened)}
    for source in plan.sources:
        files = given.get((source.name, source.path))
        if files is None:
            raise ShardError(
                f"{parameter(source.name)} {printable(source.path)} is not opened any more; plan again."
            )
        changed = next((old.path for old, new in zip(source.files, _pinned(files), strict=False) if old != new), "")
        if changed or len(source.files) != len(files):
            raise ShardError(
                f"{printable(changed or source.path)}: has changed since the plan was made; plan again, or put "
                "the files back with their times (`cp -p`, `rsync -t`)."
            )


def sources_of(opened: OpenedAudit, *, with_fingerprints: bool = True) -> Iterator[Source]:
    """Everything that was opened, each file with its size and time. Raises CheckpointError if a file is gone."""
    for name, path, checkpoint, files in _opened(opened):
        mark = fingerprint(checkpoint) if with_fingerprints and checkpoint is not None else ""
        yield Source(name=name, path=path, fingerprint=mark, files=tuple(_pinned(files)))


def _opened(opened: OpenedAudit) -> Iterator[tuple[str, str, Checkpoint | None, list[Place]]]:
    sides = [("base", opened.base), *(("tuned", run.pair.tuned) for run in opened.runs)]
    for name, given in opened.auxiliary.given.items():
        beside = (*given.checkpoints, *([given.opened] if given.opened is not None else []))
        sides += [(name, checkpoint) for checkpoint in beside]
        if not beside and name not in UNUSED and is_regular(Path(given.path)):
            yield name, given.path, None, [Path(given.path)]
    for name, checkpoint in sides:
        files = {handle.file for handle in checkpoint.tensors.values()}
        yield name, checkpoint.path, checkpoint, sorted(files, key=str)


def _pinned(files: Sequence[Place]) -> list[PinnedFile]:
    return [PinnedFile(path=str(file), stamp=_stamp(file)) for file in files]


def _stamp(file: Place) -> str:
    try:
        return " ".join(map(str, stamp_of(file)))
    except OSError as error:
        raise CheckpointError(f"{printable(file)}: cannot be read any more ({reason(error)}).") from error


def _matrices(plan: AuditPlan, runs: Sequence[str], metrics: dict[tuple[str, ...], int]) -> Iterator[PlannedTask]:
    computing = plan.effective_computing
    jobs = [job for unit in plan.units if unit.scope == "matrix" for job in plan.jobs(unit)]
    names: dict[frozenset[str], tuple[str, ...]] = {}
    for task in tasks_of(first_round(jobs, computing), computing.batch_bytes):
        wanted = task.jobs[0].metrics
        key = names.setdefault(wanted, tuple(sorted(wanted)))
        yield PlannedTask(
            cost=cost_of_task(task, exact=not computing.sufficient),
            run=runs.index(task.jobs[0].unit.run),
            tensors=tuple(job.tensor.name for job in task.jobs),
            metrics=metrics.setdefault(key, len(metrics)),
        )


def _others(plan: AuditPlan, runs: Sequence[str]) -> Iterator[PlannedTask]:
    """A task for each unit; comparisons with other files together, as they share what they derive."""
    shared: dict[str, list[Unit]] = {}
    for unit in plan.units:
        if unit.scope == "parity":
            shared.setdefault(unit.run, []).append(unit)
        elif unit.scope in SPREAD:
            yield PlannedTask(cost=cost_of_unit(unit, plan.runs), units=(unit,))
    for units in shared.values():
        yield PlannedTask(cost=cost_of_unit(units[0], plan.runs), units=tuple(units))
