"""Profiles: lists of check files by name, as `checks/profiles.toml` has them. Every pytest run loads this."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ckptaudit.errors import CheckDefinitionError, parameter, printable

TABLE = "profiles.toml"


@dataclass(frozen=True, slots=True)
class Profile:
    """The check files of a profile; `steps` and `siblings` join where the runs are such to each other.

    `rollouts` join where the rollouts of the run are given, `reference` where a run to compare with is,
    `probes` where probes are, `verdicts` where verdicts on them are.
    """

    name: str
    checks: tuple[Path, ...]
    steps: tuple[Path, ...] = ()
    siblings: tuple[Path, ...] = ()
    rollouts: tuple[Path, ...] = ()
    probes: tuple[Path, ...] = ()
    verdicts: tuple[Path, ...] = ()
    reference: tuple[Path, ...] = ()

    @property
    def companions(self) -> dict[str, tuple[Path, ...]]:
        """The files that may join: by what the runs then are to each other, or by what is then given."""
        given = {"rollouts": self.rollouts, "reference": self.reference, "probes": self.probes}
        return {"steps": self.steps, "siblings": self.siblings, **given, "verdicts": self.verdicts}


def bundled_checks() -> Path:
    """The folder of the checks that ship with the package: in the wheel, or beside it in a source tree."""
    package = Path(__file__).parent.parent
    packaged = package / "bundled_checks"
    return packaged if packaged.is_dir() else package.parent / "checks"


def bundled_check_files() -> tuple[Path, ...]:
    """Every bundled check file, by name."""
    return tuple(sorted(path for path in bundled_checks().glob("*.toml") if path.name != TABLE))


@cache
def profiles() -> dict[str, Profile]:
    """Every profile, by name."""
    table = tomllib.loads((bundled_checks() / TABLE).read_text(encoding="utf-8"))
    return {name: _profile(name, lists, table["beside"]) for name, lists in table["profile"].items()}


def _profile(name: str, lists: dict[str, list[str]], beside: dict[str, list[str]]) -> Profile:
    joining = {key: [file for file in files if file not in lists["checks"]] for key, files in beside.items()}
    files = {key: tuple(bundled_checks() / file for file in names) for key, names in (joining | lists).items()}
    return Profile(name, **files)


@cache
def default_profile() -> str:
    """The profile that is used where nobody names one."""
    default: str = tomllib.loads((bundled_checks() / TABLE).read_text(encoding="utf-8"))["default"]
    return default


def profile_named(name: str) -> Profile:
    """A profile. Raises CheckDefinitionError naming the profiles there are."""
    if name not in profiles():
        raise CheckDefinitionError(
            f"{parameter('profile')} {printable(name)}: no such profile; choose one of {', '.join(profiles())}."
        )
    return profiles()[name]
