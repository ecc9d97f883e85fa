"""What a command that takes the gate's options is asked for, without pytest's own part in it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptaudit.errors import ConfigError, parameter, printable
from ckptaudit.judging.profiles import bundled_checks
from ckptaudit.options import AUXILIARY, AuditOptions

if TYPE_CHECKING:
    from ckptaudit.judging.config import Config


BESIDE_PAIR = tuple(kind.name for kind in AUXILIARY.values() if kind.layout != "log")


class ArgumentGroup:
    """A parser that takes options as pytest's groups of them do."""

    def __init__(self, parser: argparse._ActionsContainer) -> None:
        self._parser = parser

    def addoption(self, *names: str, **words: Any) -> None:
        """Declare an option."""
        if isinstance(said := words.get("help"), str):
            words["help"] = said.replace("%", "%%")
        self._parser.add_argument(*names, **words)


class ArgumentGroups:
    """A parser whose groups are made as pytest's are."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parser = parser

    def getgroup(self, name: str, description: str, /) -> ArgumentGroup:
        """A group of its own in the parser's help."""
        return ArgumentGroup(self._parser.add_argument_group(description.removeprefix("checkpoint audit: ")))


def value_of(options: argparse.Namespace) -> Callable[[str], Any]:
    """The value of each option by name, None for those that were not declared."""
    return lambda name: getattr(options, name, None)


def config_path(named: str | None) -> Path | None:
    """The configuration that is named, else the one of the current folder."""
    from ckptaudit.judging.config import find_config

    return Path(named) if named else find_config((Path.cwd(),))


def config_at(path: Path | None) -> Config:
    """The configuration at a path, the empty one for none. Raises ConfigError."""
    from ckptaudit.judging.config import Config, load_config

    return Config() if path is None else load_config(path)


def named_checks(given: list[str]) -> tuple[Path, ...]:
    """Check files by path or bundled name. Raises ConfigError for what is no such file."""
    paths = tuple(Path(resolved(name)) for name in given)
    for path in paths:
        if path.suffix != ".toml":
            raise ConfigError(f"{printable(path)}: no file of checks; give {parameter('profile')}, or .toml files.")
    return paths


def audit_options(
    option: Callable[[str], Any], *, complete: bool, waivers: bool = True, command: Sequence[str] = ()
) -> AuditOptions:
    """The options of the audit, as a command line has them; `option` gives the value of each by name."""
    return AuditOptions(
        base=option("base") or "",
        tuned=tuple(option("tuned") or ()),
        rollouts=tuple(option("audit_rollouts") or ()),
        scalars=tuple(option("audit_scalars") or ()),
        profile=option("audit_profile") or "",
        device=option("audit_device"),
        exact=option("audit_exact"),
        complete=complete,
        strict=option("audit_strict"),
        waivers=waivers,
        cache=option("audit_cache"),
        memory=option("audit_memory"),
        dtype=option("audit_dtype"),
        probe_rows=option("audit_probe_rows"),
        several=option("audit_several"),
        auxiliary={name: path for name in BESIDE_PAIR if (path := option(f"audit_{name}")) is not None},
        against=option("audit_against"),
        against_factor=option("audit_against_factor"),
        digest=bool(option("audit_digest")),
        workers=option("audit_workers") or "",
        command=tuple(command),
    )


def resolved(argument: str) -> str:
    """An argument that names a bundled file by its id, as printed in a report, finds that file."""
    name, colons, rest = argument.partition("::")
    bundled = bundled_checks() / name
    if name.endswith(".toml") and not Path(name).exists() and Path(name).name == name and bundled.is_file():
        return f"{bundled}{colons}{rest}"
    return argument
