"""Files that a command is asked to write: refused before hours of measuring rather than after."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ckptaudit.errors import ReportError, printable


def refuse_unwritable(path: Path, said: str, *, may_be_folder: bool = False) -> None:
    """Raise ReportError where no file can be written; `said` is the option that names it."""
    folder = next(p for p in (path.absolute(), *path.absolute().parents)[1:] if p.exists())
    # A pipe or a device would be replaced by a file of its name.
    is_wrong_kind = path.exists() and not (path.is_file() or (path.is_dir() and may_be_folder))
    if is_wrong_kind or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ReportError(f"{said} {printable(path)}: no file can be written there; name another.")


def refuse_what_is_read(paths: Iterable[Path], read: Iterable[Path]) -> None:
    """Raise ReportError where a file to write is one that the command reads, and would be lost."""
    kept = {path.resolve() for path in read}
    for path in paths:
        if path.resolve() in kept:
            raise ReportError(f"{printable(path)}: is read here and would be overwritten; name another.")
