"""Files of a log: only regular ones are opened."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ckptaudit.errors import RolloutError, printable
from ckptaudit.foreign_files import regular_size

MAX_FILES = 1_000_000


def regular_files(files: Iterable[Path]) -> Iterator[Path]:
    """The files, each one checked as it is reached: a pipe or a device could block or never end."""
    for path in files:
        regular_file(path)
        yield path


def regular_file(path: Path) -> int:
    """Size in bytes of a regular file. Raises RolloutError if there is none of that name, or it is another kind."""
    try:
        return regular_size(path)
    except OSError as error:
        raise RolloutError(f"{printable(path)}: cannot be read ({printable(error.strerror or error)}).") from error


def numbered(folder: Path, pattern: str) -> list[tuple[int, Path]]:
    """Files of a folder whose name matches the pattern, with the number that its first group captures, in order."""
    found = []
    for count, path in enumerate(folder.iterdir() if folder.is_dir() else ()):
        if count > MAX_FILES:
            raise RolloutError(f"{printable(folder)}: more than {MAX_FILES:,} files; pass a folder of one run.")
        match = re.fullmatch(pattern, path.name, flags=re.ASCII)
        if match:
            found.append((int(match.group(1)), path))
    return sorted(found)
