"""What is to be measured, as a document: any process that has it and the checkpoints can measure a share."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from importlib.metadata import version
from math import inf
from pathlib import Path

import msgspec
from msgspec import structs

from ckptaudit.atomic_write import write_bytes
from ckptaudit.errors import ShardError, printable
from ckptaudit.foreign_files import read_regular
from ckptaudit.measurement.jobs import Unit
from ckptaudit.metrics import matrix_metrics
from ckptaudit.options import AuditOptions

SCHEMA = "ckptaudit.plan/1"
VERSION = version("ckptaudit")

MAX_PLAN = 2**30
"""Bytes of a plan; one of a hundred thousand tensors has some twenty millions."""


class PlannedTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What is measured in one go, and its predicted seconds: tensors of a run by name, or units of other scopes.

    `run` and `metrics` are positions in the plan's lists.
    """

    cost: float
    run: int = 0
    tensors: tuple[str, ...] = ()
    metrics: int = 0
    units: tuple[Unit, ...] = ()


class PinnedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file as it was when the plan was made; `stamp` is its size and time, or what its store says of it."""

    path: str
    stamp: str


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was opened: a side, or an input beside the pair; `fingerprint` is empty for what is no checkpoint."""

    name: str
    path: str
    fingerprint: str
    files: tuple[PinnedFile, ...]


class ShardPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an audit measures, in tasks, the most costly first.

    `digest` is BLAKE2b over all else. `folder` is where paths that are not absolute begin. `config` and `checks`
    are files that the verdicts are given by, empty where there is none. `sufficient` is the limit up to which a
    bound decides, None where it always does; empty where every number is computed.
    """

    schema: str = SCHEMA
    version: str = VERSION
    digest: str = ""
    folder: str
    options: AuditOptions
    config: str = ""
    checks: tuple[str, ...] = ()
    sources: tuple[Source, ...]
    runs: tuple[str, ...]
    sufficient: dict[str, float | None]
    metrics: tuple[tuple[str, ...], ...]
    tasks: tuple[PlannedTask, ...]

    @property
    def cost(self) -> float:
        """Predicted seconds of all tasks together."""
        return sum(task.cost for task in self.tasks)

    @property
    def bounds(self) -> dict[str, float]:
        """`sufficient` with the infinite limits that JSON does not have."""
        known = matrix_metrics()
        always = {name: inf if metric.upper_bound else -inf for name, metric in known.items()}
        return {name: always[name] if limit is None else limit for name, limit in self.sufficient.items()}


def sealed(plan: ShardPlan) -> ShardPlan:
    """The plan with its digest."""
    return structs.replace(plan, digest=_digest(plan))


def finite(bounds: Mapping[str, float]) -> dict[str, float | None]:
    """Limits as the document holds them: None for infinite ones."""
    return {name: None if limit in (inf, -inf) else limit for name, limit in sorted(bounds.items())}


def write_plan(plan: ShardPlan, path: Path) -> None:
    """Write a plan, complete or not at all. Raises ShardError."""
    try:
        write_bytes(path, msgspec.json.encode(plan) + b"\n")
    except OSError as error:
        raise ShardError(f"{printable(path)}: cannot be written ({printable(error.strerror or error)}).") from None


def read_plan(path: Path) -> ShardPlan:
    """Read a plan, as this version wrote it and not changed since. Raises ShardError naming file and mend."""
    try:
        return parse_plan(read_regular(path, MAX_PLAN), printable(path))
    except OSError as error:
        raise ShardError(f"{printable(path)}: cannot be read ({printable(error.strerror or error)}).") from None


class _Head(msgspec.Struct):
    schema: str
    version: str


def parse_plan(content: bytes, name: str) -> ShardPlan:
    """The same from its bytes. Raises ShardError naming it as `name`."""
    again = "make it again with `ckptaudit plan`"
    try:
        head = msgspec.json.decode(content, type=_Head)
        if (head.schema, head.version) != (SCHEMA, VERSION):
            raise ShardError(
                f"{name}: is {printable(head.schema[:100])} of version {printable(head.version[:100])}, this is "
                f"{SCHEMA} of {VERSION}; {again}, or use that version."
            )
        plan = msgspec.json.decode(content, type=ShardPlan)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        why = printable(str(error)[:200])
        raise ShardError(f"{name}: not a plan of what is to be measured ({why}); {again}.") from None
    if plan.digest != _digest(plan):
        raise ShardError(f"{name}: its contents are not those that its digest was taken of; {again}.")
    _check_positions(plan, name)
    return plan


def _check_positions(plan: ShardPlan, name: str) -> None:
    known = matrix_metrics()
    sound = all(
        0 <= task.run < len(plan.runs)
        and 0 <= task.metrics < max(1, len(plan.metrics))
        and bool(task.units) is not bool(task.tensors)
        and 0 <= task.cost < inf
        for task in plan.tasks
    )
    named = {*plan.sufficient, *(metric for metrics in plan.metrics for metric in metrics)}
    if not sound or not named <= known.keys() or (not plan.metrics and any(t.tensors for t in plan.tasks)):
        raise ShardError(f"{name}: names runs or metrics that are not there; make it again with `ckptaudit plan`.")


def _digest(plan: ShardPlan) -> str:
    return blake2b(msgspec.json.encode(structs.replace(plan, digest="")), digest_size=16).hexdigest()
