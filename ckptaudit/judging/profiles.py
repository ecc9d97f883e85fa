"""Which check files a request means: profiles by name, bundled files from wherever the package was installed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ckptaudit.errors import CheckDefinitionError, printable

PROFILES = {
    "rlvr": "rlvr.toml",
    "sft": "sft.toml",
    "integrity": "integrity.toml",
    "orthogonal_update": "orthogonal_update.toml",
    "orthogonal_layer": "orthogonal_layer.toml",
    "intruders": "intruders.toml",
    "pissa": "pissa.toml",
    "mode_connectivity": "mode_connectivity.toml",
    "unlearning": "unlearning.toml",
    "alignguard": "alignguard.toml",
    "gist": "gist.toml",
    "alignment_restoration": "alignment_restoration.toml",
}
DEFAULT_PROFILE = "rlvr"
DEFAULT_MEMORY = "256MiB"
Several = Literal["auto", "steps", "siblings", "apart"]
SEVERAL: tuple[Several, ...] = ("auto", "steps", "siblings", "apart")
"""What several tuned checkpoints are to each other."""

FACTOR = 2.0
"""How many times worse than a released run is a failure, unless the user says otherwise."""

COMPANIONS = {"rlvr": {"steps": "trajectory.toml", "siblings": "siblings.toml"}}
"""Check files that join a profile where --tuned names several steps of a run, or several runs from one base."""


def bundled_checks() -> Path:
    """The folder of the checks that ship with the package: in the wheel, or beside it in a source tree."""
    packaged = Path(__file__).parent.parent / "bundled_checks"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent.parent / "checks"


def bundled_check_files() -> tuple[Path, ...]:
    """Every bundled check file, by name."""
    return tuple(sorted(bundled_checks().glob("*.toml")))


def profile_file(profile: str) -> Path:
    """The check file of a profile. Raises CheckDefinitionError naming the profiles there are."""
    if profile not in PROFILES:
        raise CheckDefinitionError(
            f"--audit-profile {printable(profile)}: no such profile; choose one of {', '.join(PROFILES)}."
        )
    return bundled_checks() / PROFILES[profile]


def companions(profile: str) -> dict[str, Path]:
    """The check files that join a profile, by what the runs then are to each other: `steps`, `siblings`."""
    return {over: bundled_checks() / name for over, name in COMPANIONS.get(profile, {}).items()}
