"""Paths to opened and paired checkpoints: what cannot be judged at all ends here."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import torch

from ckptaudit.behavior.preparation import ProbeSet
from ckptaudit.behavior.probes import read_probes
from ckptaudit.checkpoints import Checkpoint, open_checkpoint
from ckptaudit.errors import CheckpointError, CkptAuditError, RolloutError, parameter, printable
from ckptaudit.measurement.base_cache import FactorCache, open_cache
from ckptaudit.measurement.jobs import batch_budget, pick_device
from ckptaudit.options import AuditOptions
from ckptaudit.pairing.auxiliary import Auxiliary, open_auxiliary
from ckptaudit.pairing.runs import Over, Run, RunGroup, open_all
from ckptaudit.results.records import CheckpointRecord, checkpoint_record
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.run_log import RunLog, open_run_log

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedAudit:
    """What was opened and paired: headers only, no tensor read yet."""

    options: AuditOptions
    started: datetime
    base: Checkpoint
    runs: tuple[Run, ...]
    groups: tuple[RunGroup, ...]
    auxiliary: Auxiliary
    device: torch.device
    batch_bytes: int
    cache: FactorCache | None
    rollouts: RunLog | None = None
    probes: ProbeSet | None = None

    @property
    def everything(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint that was opened: base, tuned ones, and what was given beside them."""
        pairs = (run.pair for run in self.runs)
        beside = (one.opened for one in self.auxiliary.given.values() if one.opened is not None)
        return (self.base, *(pair.tuned for pair in pairs), *beside)

    @property
    def compares(self) -> frozenset[Over]:
        """What the runs are to each other."""
        return frozenset(group.over for group in self.groups)

    @property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """The steps at which checkpoints of the first run were saved, as far as their names tell."""
        first = self.runs[0]
        found = (
            g.order.steps for g in self.groups if g.over == "steps" and first in g.runs and not g.order.counted
        )
        return next(found, ())

    @cached_property
    def checkpoints(self) -> tuple[CheckpointRecord, ...]:
        """Base, then each run: header facts and fingerprints. Raises CheckpointError if a file is gone."""
        taken = self.options.digest
        base = checkpoint_record("base", self.runs[0].pair.base, digest=taken)
        return (base, *(checkpoint_record("tuned", run.pair.tuned, digest=taken) for run in self.runs))


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
        names = " and ".join(map(printable, (options.base, *options.tuned)))
        what = f"{type(error).__name__}: {printable(error)[:200]}"
        raise CheckpointError(f"{names}: cannot be opened ({what}); the files are damaged.") from error


def _opened(options: AuditOptions, facts: RunFacts) -> OpenedAudit:
    started = datetime.now(UTC)
    device, batch_bytes = pick_device(options.device), batch_budget(options.memory)
    base = open_checkpoint(options.base)
    initial = options.auxiliary.get("adapter_init")
    runs, groups = open_all(base, options.tuned, options.several, open_checkpoint(initial) if initial else None)
    return OpenedAudit(
        options=options,
        started=started,
        base=base,
        runs=runs,
        groups=groups,
        auxiliary=open_auxiliary(options.auxiliary, base),
        device=device,
        batch_bytes=batch_bytes,
        cache=open_cache(options.cache),
        rollouts=_run_log(options, facts),
        probes=_probes(options),
    )


def _run_log(options: AuditOptions, facts: RunFacts) -> RunLog | None:
    path, scalars = options.auxiliary.get("rollouts"), options.auxiliary.get("scalars")
    if path is not None:
        return open_run_log(path, scalars, facts)
    if scalars is not None:
        raise RolloutError(f"{parameter('scalars')} are judged beside rollouts; give {parameter('rollouts')} PATH.")
    return None


def _probes(options: AuditOptions) -> ProbeSet | None:
    path = options.auxiliary.get("probes")
    return None if path is None else ProbeSet(path, tuple(read_probes(Path(path))), dtype=options.dtype)
