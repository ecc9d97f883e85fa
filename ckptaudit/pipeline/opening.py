"""Paths to opened and paired checkpoints: what cannot be judged at all ends here."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import torch

from ckptaudit.behavior.preparation import ProbeSet
from ckptaudit.checkpoints import Checkpoint, fingerprint, open_checkpoint
from ckptaudit.errors import CheckpointError, CkptAuditError, printable
from ckptaudit.measurement.base_cache import FactorCache
from ckptaudit.measurement.cache_location import open_cache
from ckptaudit.measurement.crew import parse_workers
from ckptaudit.measurement.jobs import batch_budget, pick_device
from ckptaudit.options import AuditOptions
from ckptaudit.pairing.auxiliary import Auxiliary, open_auxiliary
from ckptaudit.pairing.runs import Over, Run, RunGroup, open_all
from ckptaudit.pipeline.inputs import given_inputs, joined_parts, read_places
from ckptaudit.pipeline.logs import inputs_with_logs, logs_of_runs, refuse_half_a_pair, runs_of_logs
from ckptaudit.pipeline.probes import notes_of, open_probes
from ckptaudit.results.inputs import InputRecord
from ckptaudit.results.records import CheckpointRecord, checkpoint_record
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.run_log import RunLog, open_run_logs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedAudit:
    """What was opened and paired: headers only, no tensor read yet. `logs` are by the path of the run they are of.

    Without a pair the base is a checkpoint of nothing, and so is either side of the runs, one for each log.
    """

    options: AuditOptions
    started: datetime
    base: Checkpoint
    runs: tuple[Run, ...]
    groups: tuple[RunGroup, ...]
    auxiliary: Auxiliary
    device: torch.device
    batch_bytes: int
    cache: FactorCache | None
    logs: Mapping[str, RunLog] = field(default_factory=dict)
    probes: ProbeSet | None = None

    @property
    def has_pair(self) -> bool:
        """Whether there are weights to judge."""
        return bool(self.options.base)

    @property
    def everything(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint that was opened: base, tuned ones, and what was given beside them."""
        if not self.has_pair:
            return ()
        pairs = (run.pair for run in self.runs)
        beside = (one.opened for one in self.auxiliary.given.values() if one.opened is not None)
        return (self.base, *(pair.tuned for pair in pairs), *beside)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the inputs and of where the checkpoints lie."""
        places = dict.fromkeys(one.place for one in self.everything if one.place is not None)
        unlisted = (place for place in places if not isinstance(place, Path) and place.lists_nothing)
        seen = (
            f"{printable(place)}: its server lists no files, so those under unusual names were not seen"
            for place in unlisted
        )
        return (*self.auxiliary.notes, *notes_of(self.probes), *seen)

    @property
    def compares(self) -> frozenset[Over]:
        """What the runs are to each other."""
        return frozenset(group.over for group in self.groups)

    @property
    def checkpoint_steps(self) -> dict[str, tuple[int, ...]]:
        """By path, the steps at which checkpoints of each run were saved, as far as their names tell."""
        numbered = (g for g in self.groups if g.over == "steps" and not g.order.counted)
        return {run.path: group.order.steps for group in numbered for run in group.runs}

    @cached_property
    def checkpoints(self) -> tuple[CheckpointRecord, ...]:
        """Base, then each run: header facts and fingerprints. Raises CheckpointError if a file is gone."""
        if not self.has_pair:
            return ()
        taken = self.options.digest
        base = checkpoint_record("base", self.runs[0].pair.base, digest=taken)
        return (base, *(checkpoint_record("tuned", run.pair.tuned, digest=taken) for run in self.runs))

    @cached_property
    def inputs(self) -> tuple[InputRecord, ...]:
        """What the audit rests on beside both sides, by digests of its files; nothing where none were asked for."""
        if not self.options.digest:
            return ()
        parts = joined_parts(self.base, self.runs) if self.has_pair else ()
        return (*given_inputs(self.logs, self.auxiliary, self.base, self.options.against), *parts)

    @property
    def places(self) -> tuple[Path, ...]:
        """Files and folders of this machine that are read."""
        runs = self.runs if self.has_pair else ()
        return tuple(read_places(self.logs, self.auxiliary, self.base, runs, self.options))

    def take_digests(self) -> None:
        """Take the digests that were asked for, once; later changes of the files are no part of them.

        Raises CkptAuditError where a file cannot be read.
        """
        if self.options.digest:
            _ = self.checkpoints, self.inputs


def open_audit(options: AuditOptions, facts: RunFacts | None = None) -> OpenedAudit:
    """Open and pair everything at once, so that a request that cannot be judged fails early.

    `facts` are what a log of rollouts does not say of its run.
    Raises CkptAuditError in one sentence, whatever a reader stumbles over.
    """
    try:
        return _opened(options, facts or RunFacts())
    except CkptAuditError:
        raise
    except Exception as error:
        logger.debug("opening failed", exc_info=True)
        names = " and ".join(map(printable, filter(None, (options.base, *options.tuned, *options.logs[0]))))
        what = f"{type(error).__name__}: {printable(error)[:200]}"
        raise CheckpointError(f"{names}: cannot be opened ({what}); the files are damaged.") from error


def _opened(options: AuditOptions, facts: RunFacts) -> OpenedAudit:
    started = datetime.now(UTC)
    device, batch_bytes = pick_device(options.device), batch_budget(options.memory)
    if options.workers:
        parse_workers(options.workers)
    logs = open_run_logs(*options.logs, facts) if any(options.logs) else ()
    base, runs, groups = _checkpoints(options, logs)
    return OpenedAudit(
        options=options,
        started=started,
        base=base,
        runs=runs,
        groups=groups,
        auxiliary=open_auxiliary(inputs_with_logs(options, logs), base),
        device=device,
        batch_bytes=batch_bytes,
        cache=_cache(options, base),
        logs=logs_of_runs(logs, runs, groups),
        probes=open_probes(options),
    )


def _cache(options: AuditOptions, base: Checkpoint) -> FactorCache | None:
    cache = open_cache(options.cache)
    if cache is not None and options.base:
        cache.belongs_to(fingerprint(base))
    return cache


def _checkpoints(
    options: AuditOptions, logs: Sequence[RunLog]
) -> tuple[Checkpoint, tuple[Run, ...], tuple[RunGroup, ...]]:
    refuse_half_a_pair(options)
    if not options.base:
        runs = runs_of_logs(logs)
        return runs[0].pair.base, runs, ()
    base = open_checkpoint(options.base)
    initial = options.auxiliary.get("adapter_init")
    return base, *open_all(base, options.tuned, options.several, open_checkpoint(initial) if initial else None)
