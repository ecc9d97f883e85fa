"""An audit from Python, without pytest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import structs

from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.config import Config, check_files, load_config
from ckptaudit.judging.profiles import FACTOR, Several, companions
from ckptaudit.measurement.base_cache import open_cache
from ckptaudit.pipeline.session import AuditSession
from ckptaudit.results.baseline import load_released
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
) -> AuditResult:
    """Audit tuned checkpoints against their base, without pytest. Raises CkptAuditError.

    `tuned` may hold patterns and `FOLDER@all`; `several` says what the runs are to each other, as
    `--audit-several` does. `config` is a configuration or the path of one; none is looked for. `profile`
    overrules the one it names. `against` is the JSON of a released run's audit, than which a verdict may
    not be worse by more than `against_factor`. `cache` is a folder, or "off"; by default it lies where the
    command's does. `inputs` gives by name what some claims need beside the pair:
    `{"fisher": "fisher.safetensors"}`. Without `complete` only what the verdicts rest on is measured.
    """
    paths = [tuned] if isinstance(tuned, str | Path) else list(tuned)
    config = config if isinstance(config, Config) else load_config(Path(config)) if config else Config()
    files = check_files(config, profile)
    session = AuditSession(
        str(base),
        [str(p) for p in paths],
        device=device,
        exact=exact,
        cache=open_cache(None if cache is None else str(cache)),
        profile=files[0].path.stem,
        inputs={name: str(path) for name, path in (inputs or {}).items()},
        several=several,
    )
    if against is not None:
        session.released = load_released(Path(against), session.opened_base, factor=against_factor)
    joining = {over: load_checks(path) for over, path in companions(session.profile).items()}
    files += tuple(file for over, file in joining.items() if over in session.compares)
    session.agree(config, files, known=tuple(joining.values()), strict=strict)
    asked = [(request, f"{file.path.name}::{request.name}") for file in files for request in session.requests(file)]
    session.expect([request for request, _ in asked], everything=complete)
    return session.result([structs.replace(session.verdict(request), test=test) for request, test in asked])
