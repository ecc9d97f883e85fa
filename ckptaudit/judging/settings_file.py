"""The file that a configuration stands in: `ckptaudit.toml`, or the table [tool.ckptaudit] of a pyproject.toml."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from ckptaudit.errors import ConfigError, printable
from ckptaudit.foreign_files.toml import read_toml

PROJECT = "pyproject.toml"
TABLE = "[tool.ckptaudit]"


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """The settings as they were read; `name` is what errors call them.

    `sha256` is that of the file; of a table in a pyproject.toml, that of the table as JSON with sorted keys, since
    the rest of such a file is about other things. `part` is the table's name then, and empty for a file.
    """

    content: dict[str, Any]
    name: str
    sha256: str
    part: str = ""


def read_settings(path: Path) -> SettingsFile:
    """Read the settings at a path, whatever they say. Raises ConfigError."""
    file, name = read_toml(path, "configuration", ConfigError), printable(path)
    if path.name != PROJECT:
        return SettingsFile(file.content, name, file.sha256)
    table = our_table(file.content)
    name = f"{name} {TABLE}"
    if not isinstance(table, dict):
        raise ConfigError(f"{name}: no such table; write the settings below a {TABLE} line.")
    return SettingsFile(table, name, sha256(msgspec.json.encode(table, order="sorted")).hexdigest(), TABLE)


def our_table(project: dict[str, Any]) -> Any:
    """What a pyproject.toml has under [tool.ckptaudit]; None where that is missing."""
    tool = project.get("tool")
    return tool.get("ckptaudit") if isinstance(tool, dict) else None
