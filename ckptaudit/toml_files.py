"""Reading a TOML file that a user names."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from ckptaudit.errors import CkptAuditError, printable


def read_toml(path: Path, kind: str, error: type[CkptAuditError]) -> dict[str, Any]:
    """The content of a `kind` of file. Raises `error` if there is none, or if it is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{printable(path)}: no such {kind} file; check the path.") from None
    except (OSError, ValueError, RecursionError) as problem:
        raise error(f"{printable(path)}: not a valid TOML file ({printable(problem)}).") from problem
