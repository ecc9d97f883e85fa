"""What a pytest command line asks for: the options of the audit, and the check files among the arguments."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from ckptaudit.judging.check_files import CheckFile, holds_checks, load_checks
from ckptaudit.judging.profiles import bundled_check_files, bundled_checks
from ckptaudit.options import AUXILIARY, AuditOptions

BESIDE_PAIR = tuple(kind.name for kind in AUXILIARY.values() if kind.layout != "log")


def audit_options(config: pytest.Config, base: str, tuned: list[str], *, complete: bool) -> AuditOptions:
    """The options of the audit, as the command line has them."""
    option = config.getoption
    return AuditOptions(
        base=base,
        tuned=tuple(tuned),
        rollouts=tuple(option("audit_rollouts") or ()),
        scalars=tuple(option("audit_scalars") or ()),
        profile=option("audit_profile") or "",
        device=option("audit_device"),
        exact=option("audit_exact"),
        complete=complete,
        strict=option("audit_strict"),
        # What pytest calls an expected failure is a waived one here, and --runxfail wants none.
        waivers=not option("runxfail", default=False),
        cache=option("audit_cache"),
        memory=option("audit_memory"),
        several=option("audit_several"),
        auxiliary={name: path for name in BESIDE_PAIR if (path := option(f"audit_{name}")) is not None},
        against=option("audit_against"),
        against_factor=option("audit_against_factor"),
        digest=option("audit_digest"),
        command=("pytest", *map(str, config.invocation_params.args)),
    )


def names_files(config: pytest.Config) -> bool:
    """Whether files or folders are named on the command line, and no profile's checks are meant."""
    return config.args_source is pytest.Config.ArgsSource.ARGS


def resolved(argument: str) -> str:
    """An argument that names a bundled file by its id, as printed in a report, finds that file."""
    name, colons, rest = argument.partition("::")
    bundled = bundled_checks() / name
    if name.endswith(".toml") and not Path(name).exists() and Path(name).name == name and bundled.is_file():
        return f"{bundled}{colons}{rest}"
    return argument


def named_check_files(arguments: list[str]) -> dict[Path, CheckFile]:
    """Check files named, and those in folders named, all read now: a mistake in one must end the run."""
    found: dict[Path, CheckFile] = {}
    for argument in arguments:
        path = Path(argument.partition("::")[0])
        if path.suffix == ".toml":
            found[path.resolve()] = load_checks(path)
        elif path.is_dir():
            found |= {p.resolve(): load_checks(p) for p in sorted(path.rglob("*.toml")) if holds_checks(p)}
    return found


def node_id(path: Path) -> dict[str, str]:
    """Bundled checks are known by their file name alone, wherever they are installed."""
    return {"nodeid": path.name} if path.resolve() in _bundled() else {}


@cache
def _bundled() -> frozenset[Path]:
    # pytest asks for each file beside one that was named.
    return frozenset(path.resolve() for path in bundled_check_files())
