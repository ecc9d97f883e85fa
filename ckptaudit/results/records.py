"""What an audit found, as one record. Every report renders it; none computes."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import msgspec

from ckptaudit.checkpoints import Checkpoint, fingerprint
from ckptaudit.checkpoints.digests import FileDigest, file_digests, root_digest
from ckptaudit.checkpoints.paths import locate
from ckptaudit.errors import CheckpointError, parameter, printable
from ckptaudit.judging.checks import Check, Guard, JudgeBy, Per, Severity
from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics import Measurement, Scale
from ckptaudit.metrics.descriptions import description_of
from ckptaudit.results.behavior import BehaviorRecord
from ckptaudit.results.coverage import Coverage
from ckptaudit.results.gate import answer
from ckptaudit.results.inputs import InputRecord
from ckptaudit.results.rollouts import RolloutsRecord
from ckptaudit.results.summary import Summary, counts

SCHEMA = "ckptaudit/1"

LEFT_OUT = "checks left out: "
"""How a line of `not_judged` begins that tells of checks without a verdict."""

TableName = Literal["measurements", "verdicts"]

# By name, as every renderer is found: records know of none.
TABLES, NOTEBOOK = "ckptaudit.results.tables", "ckptaudit.report.notebook"


class CheckpointRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint of the audit; `dtypes` counts tensors by type, `fingerprint` samples the files.

    `digest` is the SHA-256 over those of all files, and `files` has these, where they were asked for.
    """

    side: Literal["base", "tuned"]
    path: str
    format: str
    fingerprint: str
    tensors: int
    parameters: int
    dtypes: dict[str, int]
    digest: str = ""
    files: tuple[FileDigest, ...] = ()


class CheckRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A check as it was applied, for reports that are made from the JSON alone."""

    id: str
    file: str
    claim: str
    metric: str
    unit: str
    sign: str
    limit: float
    per: Per
    judge_by: JudgeBy
    severity: Severity
    source: str
    published: str
    note: str
    remedy: str
    roles: tuple[str, ...] = ()
    only_where: Guard | None = None
    scale: Scale = "size"
    sets: tuple[str, ...] = ()


class About(msgspec.Struct, frozen=True, kw_only=True):
    """How the audit was made. `started` is UTC, ISO 8601; `seconds` counts from then to the result.

    `inputs` are the paths of what was given beside the pair, by name.
    """

    command: tuple[str, ...]
    profile: str
    device: str
    exact: bool
    started: str
    seconds: float
    versions: dict[str, str]
    inputs: dict[str, str] = {}


class StepRecord(msgspec.Struct, frozen=True):
    """One save of a training run."""

    tuned: str
    label: str
    step: int


class MetricCurve(msgspec.Struct, frozen=True):
    """A metric along the saves, over the matrices of each; None where a save has no value."""

    metric: str
    lowest: tuple[float | None, ...]
    median: tuple[float | None, ...]
    highest: tuple[float | None, ...]


class Trajectory(msgspec.Struct, frozen=True, kw_only=True):
    """The saves of one run in order; `counted` where steps are positions, for want of numbers in the names.

    `first_failures` gives for each check that fails somewhere the label of the first save at which it does.
    """

    name: str
    steps: tuple[StepRecord, ...]
    counted: bool
    first_failures: dict[str, str]
    series: tuple[MetricCurve, ...]


class Siblings(msgspec.Struct, frozen=True):
    """Runs from one base; `figures` are means over matrices, by metric, one for each run in order."""

    tuned: tuple[str, ...]
    elsewhere: tuple[str, ...]
    figures: dict[str, tuple[float | None, ...]]


class BaselineRecord(msgspec.Struct, frozen=True):
    """The released audit that this one was compared with."""

    path: str
    tuned: str
    factor: float


class SpectrumRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One matrix decomposed on both sides, exactly and in float64; curves thinned to what a screen shows.

    `ranks` counts singular values from 1, descending, and `angle_ranks` principal angles from 1, ascending.
    The angles, in degrees, are those between the top-`k` singular subspaces of base and tuned; `gap` is
    (s_k - s_{k+1}) / s_k of the base: where it is tiny, the angles say little.
    """

    tuned: str
    tensor: str
    layer: int | None
    role: str
    shape: tuple[int, ...]
    k: int
    gap: float
    ranks: tuple[int, ...]
    base_singular_values: tuple[float, ...]
    tuned_singular_values: tuple[float, ...]
    angle_ranks: tuple[int, ...]
    left_angles: tuple[float, ...]
    right_angles: tuple[float, ...]


class AuditResult(msgspec.Struct, frozen=True, kw_only=True):
    """The whole audit of a base and one or more tuned checkpoints; of rollouts alone, both sides are empty."""

    schema: str = SCHEMA
    base: str
    tuned: tuple[str, ...]
    summary: Summary
    unaligned: tuple[str, ...]
    measurements: tuple[Measurement, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()
    checkpoints: tuple[CheckpointRecord, ...] = ()
    checks: tuple[CheckRecord, ...] = ()
    about: About | None = None
    spectra: tuple[SpectrumRecord, ...] = ()
    trajectories: tuple[Trajectory, ...] = ()
    siblings: tuple[Siblings, ...] = ()
    against: BaselineRecord | None = None
    coverage: tuple[Coverage, ...] = ()
    not_judged: tuple[str, ...] = ()
    """Kinds of evidence that were not given, and what would give them; and how many checks were left out."""
    rollouts: tuple[RolloutsRecord, ...] = ()
    behavior: tuple[BehaviorRecord, ...] = ()
    inputs: tuple[InputRecord, ...] = ()
    """What was judged beside the weights, and by what, by the digests of its files, where these were asked for."""

    @property
    def has_pair(self) -> bool:
        """Whether weights were given; if not, an open gate is open for the rollouts alone."""
        return bool(self.tuned)

    @property
    def runs(self) -> tuple[str, ...]:
        """What verdicts are about: the tuned checkpoints, or without a pair the logs, by path."""
        return self.tuned or tuple(log.tuned for log in self.rollouts)

    def to_arrow(self, table: TableName = "measurements") -> Any:
        """The measurements, or the verdicts, as a pyarrow Table. Raises ReportError without the package."""
        return import_module(TABLES).arrow_table(self, table)

    def to_pandas(self, table: TableName = "measurements") -> Any:
        """The same as a pandas DataFrame. Raises ReportError without the packages."""
        return import_module(TABLES).pandas_table(self, table)

    def to_polars(self, table: TableName = "measurements") -> Any:
        """The same as a Polars DataFrame. Raises ReportError without the packages."""
        return import_module(TABLES).polars_table(self, table)

    def __repr__(self) -> str:
        """The answer and the counts: a result of thousands of numbers is no line to be read."""
        ends = "open" if self.passed else "closed"
        return f"<AuditResult of {', '.join(map(printable, self.runs))}: gate {ends}, {counts(self.verdicts)}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        html: str = import_module(NOTEBOOK).notebook_html(self)
        return html

    @property
    def passed(self) -> bool:
        """Whether something was judged, and nothing that closes the gate failed or could not be judged."""
        return answer(self.verdicts).is_open


def check_record(check: Check, file: str) -> CheckRecord:
    """A check with the name of the file it stands in and its metric's unit."""
    metric = description_of(check.metric)
    assert metric is not None  # load_checks admits no metric that is not there
    own = {name: getattr(check, name) for name in CheckRecord.__struct_fields__ if hasattr(check, name)}
    return CheckRecord(file=file, unit=metric.unit, scale=metric.scale, **own)


def checkpoint_record(
    side: Literal["base", "tuned"], checkpoint: Checkpoint, *, digest: bool = False
) -> CheckpointRecord:
    """A checkpoint's header facts and fingerprint, and with `digest` that of every byte of its files.

    Raises CheckpointError if a file is gone, and for a digest of what is no one file or folder.
    """
    files = _file_digests(side, checkpoint) if digest else ()
    return CheckpointRecord(
        side=side,
        path=checkpoint.path,
        format=checkpoint.format,
        fingerprint=fingerprint(checkpoint),
        tensors=len(checkpoint.tensors),
        parameters=checkpoint.parameters,
        dtypes=dict(Counter(handle.dtype for handle in checkpoint.tensors.values())),
        digest=root_digest(files) if files else "",
        files=files,
    )


def _file_digests(side: Literal["base", "tuned"], checkpoint: Checkpoint) -> tuple[FileDigest, ...]:
    """Those of a local checkpoint; none of a base in a store, whose name and ETag the fingerprint has."""
    try:
        place = locate(checkpoint.path)
        if isinstance(place, Path):
            return file_digests(place)
    except CheckpointError as error:
        raise CheckpointError(f"{parameter('digest')} {printable(checkpoint.path)}: {error.sentence}") from error
    if side == "base":
        return ()
    raise CheckpointError(
        f"{parameter('digest')} {printable(checkpoint.path)}: a digest is taken of local files; download it first."
    )
