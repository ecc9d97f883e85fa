"""Reading a TOML file that a user names."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ckptaudit.errors import CkptAuditError, printable
from ckptaudit.foreign_files import read_regular

MAX_TOML = 4 * 2**20
MAX_DOTS = 200
"""In one line. The standard library's parser takes time quadratic in the parts of a dotted key."""


@dataclass(frozen=True, slots=True)
class TomlFile:
    """What a file held when it was read, and the hexadecimal SHA-256 of those bytes."""

    content: dict[str, Any]
    sha256: str


def read_toml(path: Path, kind: str, error: type[CkptAuditError]) -> TomlFile:
    """A `kind` of file. Raises `error` if there is none, or if it is not TOML."""
    try:
        text = read_regular(path, MAX_TOML)
        return TomlFile(_parsed(text.decode("utf-8")), sha256(text).hexdigest())
    except FileNotFoundError:
        raise error(f"{printable(path)}: no such {kind} file; check the path.") from None
    except OSError as problem:
        why = printable(problem.strerror or problem)
        raise error(f"{printable(path)}: the {kind} file cannot be read ({why}); check the path.") from problem
    except (ValueError, RecursionError) as problem:
        why = printable(str(problem)[:200])
        raise error(f"{printable(path)}: not a valid TOML file ({why}).") from problem


def glance(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Content and text of a file that may not be meant for us: no content where it does not parse.

    Nothing at all of what cannot be read, or is no regular file.
    """
    try:
        text = read_regular(path, MAX_TOML).decode("utf-8", "replace")
    except OSError:
        return {}, ""
    try:
        return _parsed(text), text
    except (ValueError, RecursionError):
        return None, text


def _parsed(text: str) -> dict[str, Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > MAX_DOTS:
            raise ValueError(f"more than {MAX_DOTS} dots in line {number}")
    return tomllib.loads(text)
