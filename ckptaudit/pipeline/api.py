"""An audit from Python, without pytest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import structs

from ckptaudit.errors import python_spelling
from ckptaudit.judging.config import Config, load_config
from ckptaudit.judging.judge import judge, respelled
from ckptaudit.options import FACTOR, AuditOptions, Several
from ckptaudit.pipeline.assembly import assemble
from ckptaudit.pipeline.causes import causes
from ckptaudit.pipeline.execution import execute
from ckptaudit.pipeline.opening import open_audit
from ckptaudit.pipeline.planning import baseline_of, choose_checks, plan
from ckptaudit.results.records import AuditResult


def audit(
    base: str | Path,
    tuned: str | Path | Sequence[str | Path],
    *,
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
) -> AuditResult:
    """Audit tuned checkpoints against their base, without pytest. Raises CkptAuditError.

    `tuned` may hold patterns and `FOLDER@all`; `several` says what the runs are to each other. `config` is a
    configuration or the path of one; none is looked for. `profile` overrules the one it names. `against` is the
    JSON of a released run's audit, than which a verdict may not be worse by more than `against_factor`. `cache`
    is a folder, or "off"; by default it lies where the command's does. `inputs` gives by name what some claims
    need beside the pair: `{"fisher": "fisher.safetensors"}`. Without `complete` only what the verdicts rest on is
    measured. With `digest` every file of both sides is read once for its SHA-256, as `attest` needs it.
    """
    paths = [tuned] if isinstance(tuned, str | Path) else list(tuned)
    options = AuditOptions(
        base=str(base),
        tuned=tuple(str(path) for path in paths),
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
    )
    return audited(options, config)


def audited(options: AuditOptions, config: str | Path | Config | None = None) -> AuditResult:
    """The whole trip for these options. Raises CkptAuditError."""
    config = config if isinstance(config, Config) else load_config(Path(config)) if config else Config()
    opened = open_audit(options, config.facts)
    chosen = choose_checks(opened, config)
    baseline = baseline_of(opened)
    planned = plan(opened, chosen.files, config, baseline, known=chosen.known)
    measurements = execute(planned)
    verdicts = [
        structs.replace(respelled(verdict, python_spelling), test=given.test)
        for given, verdict in zip(planned.verdicts, causes(opened, judge(planned, measurements)), strict=True)
    ]
    return assemble(opened, planned, verdicts, measurements, profile=chosen.profile, baseline=baseline)
