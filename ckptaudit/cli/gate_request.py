"""What a command that takes the gate's options is asked for, without pytest's own part in it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptaudit.errors import ConfigError, parameter, printable

if TYPE_CHECKING:
    from ckptaudit.judging.config import Config


class OptionGroup:
    """A parser that takes options as pytest's groups of them do."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parser = parser

    def addoption(self, *names: str, **words: Any) -> None:
        """Declare an option."""
        if isinstance(said := words.get("help"), str):
            words["help"] = said.replace("%", "%%")
        self._parser.add_argument(*names, **words)


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
    from ckptaudit.plugin.request import resolved

    paths = tuple(Path(resolved(name)) for name in given)
    for path in paths:
        if path.suffix != ".toml":
            raise ConfigError(
                f"{printable(path)}: no file of checks; give {parameter('profile')}, or .toml files."
            )
    return paths
