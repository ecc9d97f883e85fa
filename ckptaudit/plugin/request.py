"""What a pytest command line asks for: the options of the audit, and the check files among the arguments."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from ckptaudit.errors import RolloutError, parameter, printable
from ckptaudit.judging.check_files import CheckFile, holds_checks, load_checks
from ckptaudit.judging.profiles import bundled_check_files


def names_files(config: pytest.Config) -> bool:
    """Whether files or folders are named on the command line, and no profile's checks are meant."""
    return config.args_source is pytest.Config.ArgsSource.ARGS


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


def refuse_logs_among_files(arguments: list[str]) -> None:
    """Raise RolloutError for a log where check files are named: a pattern that the shell has written out."""
    # Imported late: pyarrow is an extra, and only rollouts need it.
    from ckptaudit.rollouts.readers import readers

    for path in map(Path, arguments):
        if path.exists() and any(reader.recognises(path) for reader in readers()):
            raise RolloutError(
                f"{printable(path)}: a log of rollouts where check files are named; give {parameter('rollouts')} "
                "once for each log, or a pattern in quotes."
            )


def node_id(path: Path) -> dict[str, str]:
    """Bundled checks are known by their file name alone, wherever they are installed."""
    return {"nodeid": path.name} if path.resolve() in _bundled() else {}


@cache
def _bundled() -> frozenset[Path]:
    # pytest asks for each file beside one that was named.
    return frozenset(path.resolve() for path in bundled_check_files())
