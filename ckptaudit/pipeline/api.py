"""An audit from Python, without pytest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from ckptaudit.errors import Spelling, parameter, python_spelling
from ckptaudit.foreign_files.outputs import Output, refuse_unwritable, refuse_what_is_read
from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.config import Config, load_config
from ckptaudit.judging.judge import judge, respelled
from ckptaudit.judging.plan import AuditPlan
from ckptaudit.measurement.store import MeasurementStore
from ckptaudit.options import FACTOR, AuditOptions, Several
from ckptaudit.pipeline.assembly import assemble, curves
from ckptaudit.pipeline.causes import causes
from ckptaudit.pipeline.evidence import refuse_without_evidence
from ckptaudit.pipeline.excerpts import Excerpts
from ckptaudit.pipeline.execution import execute
from ckptaudit.pipeline.opening import OpenedAudit, open_audit
from ckptaudit.pipeline.planning import baseline_of, choose_checks, plan
from ckptaudit.pipeline.workers import workers_of
from ckptaudit.results.baseline import Baseline
from ckptaudit.results.records import AuditResult


def audit(
    base: str | Path | None = None,
    tuned: str | Path | Sequence[str | Path] = (),
    *,
    rollouts: str | Path | Sequence[str | Path] = (),
    scalars: str | Path | Sequence[str | Path] = (),
    profile: str = "",
    config: str | Path | Config | None = None,
    device: str = "auto",
    exact: bool = False,
    complete: bool = True,
    strict: bool = False,
    cache: str | Path | None = None,
    inputs: Mapping[str, str | Path] | None = None,
    several: Several = "auto",
    against: str | Path | None = None,
    against_factor: float = FACTOR,
    digest: bool = False,
    workers: int | str = "",
    probe_rows: str | Path | None = None,
) -> AuditResult:
    """Audit tuned checkpoints against their base, or the rollouts of runs, without pytest. Raises CkptAuditError.

    `rollouts` are what trainers logged, a folder or file for each run, and `scalars` their curves: beside a pair,
    or alone, in which case the result says nothing about weights.
    `tuned` may hold patterns and `FOLDER@all`; `several` says what the runs are to each other. `config` is a
    configuration or the path of one; none is looked for. `profile` overrules the one it names. `against` is the
    JSON of a released run's audit, than which a verdict may not be worse by more than `against_factor`. `cache`
    is a folder, or "off"; by default it lies where the command's does. `inputs` gives by name what some claims
    need beside the pair: `{"fisher": "fisher.safetensors"}`. Without `complete` only what the verdicts rest on is
    measured. With `digest` every file of both sides is read once for its SHA-256, as `attest` needs it.
    `workers` is a number of processes that measure, "ray", or "ray:ADDRESS" of a cluster. `probe_rows` is a Parquet
    file for what the models say of each token of the probes.
    """
    options = AuditOptions(
        base="" if base is None else str(base),
        tuned=_paths(tuned),
        rollouts=_paths(rollouts),
        scalars=_paths(scalars),
        profile=profile,
        device=device,
        exact=exact,
        complete=complete,
        strict=strict,
        cache=None if cache is None else str(cache),
        several=several,
        auxiliary={name: str(path) for name, path in (inputs or {}).items()},
        against=None if against is None else str(against),
        against_factor=against_factor,
        digest=digest,
        workers=str(workers),
        probe_rows=None if probe_rows is None else str(probe_rows),
    )
    return audited(options, config)


def _paths(given: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    return (str(given),) if isinstance(given, str | Path) else tuple(map(str, given))


def audited(options: AuditOptions, config: str | Path | Config | None = None) -> AuditResult:
    """The whole trip for these options. Raises CkptAuditError."""
    config = config if isinstance(config, Config) else load_config(Path(config)) if config else Config()
    prepared = prepare(options, config)
    with workers_of(prepared.opened, prepared.plan) as workers:
        spread = workers.units if workers is not None else None
        measurements = execute(prepared.plan, source=workers, units=spread)
    return conclude(prepared, measurements)


@dataclass(frozen=True)
class PreparedAudit:
    """An audit of which nothing has been measured yet. `profile` is empty where check files were named."""

    opened: OpenedAudit
    plan: AuditPlan
    baseline: Baseline | None
    profile: str = ""


def prepare(options: AuditOptions, config: Config, checks: Sequence[Path] = ()) -> PreparedAudit:
    """Open, choose the checks, those of the profile unless files are named, and plan. Raises CkptAuditError."""
    rows = [] if options.probe_rows is None else [Output(Path(options.probe_rows), parameter("probe_rows"))]
    refuse_unwritable(rows)
    opened = open_audit(options, config.facts)
    refuse_what_is_read(rows, opened.places)
    chosen = choose_checks(opened, config)
    files = tuple(map(load_checks, checks)) or chosen.files
    baseline = baseline_of(opened)
    planned = plan(opened, files, config, baseline, known=chosen.known)
    refuse_without_evidence(planned, chosen.profile if opened.has_pair and not checks else "")
    opened.take_digests()
    return PreparedAudit(opened, planned, baseline, "" if checks else chosen.profile)


def conclude(
    prepared: PreparedAudit,
    measurements: MeasurementStore,
    *,
    spelling: Spelling = python_spelling,
    with_spectra: bool = False,
) -> AuditResult:
    """Judge and assemble; `with_spectra` decomposes the worst matrices in full, for the page."""
    opened, planned, excerpts = prepared.opened, prepared.plan, Excerpts()
    verdicts = [
        structs.replace(excerpts.shown(respelled(verdict, spelling), planned, measurements), test=given.test)
        for given, verdict in zip(planned.verdicts, causes(opened, judge(planned, measurements)), strict=True)
    ]
    return assemble(
        opened,
        planned,
        verdicts,
        measurements,
        profile=prepared.profile,
        baseline=prepared.baseline,
        spelling=spelling,
        spectra=curves(opened, verdicts) if with_spectra else (),
    )
