"""The canonical table itself: what the recorder or `ckptaudit rollouts convert` wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.table import SCHEMA, SMALL, filled_columns, is_canonical, read_table

NAME = "ckptaudit"
FILES = "Parquet of the canonical table"
COLUMNS = frozenset(SCHEMA.names)
MISSING: dict[str, str] = {}


def files(folder: Path) -> list[Path]:
    """The files that are read, in order."""
    if folder.is_file():
        return [folder] if folder.suffix == ".parquet" else []
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))


def recognises(folder: Path) -> bool:
    """Whether the first Parquet file says so in its metadata."""
    found = files(folder)
    return bool(found) and found[0].is_file() and is_canonical(found[0])


def open(folder: Path, facts: RunFacts) -> Iterator[pa.RecordBatch]:
    """All columns, in the order of file names."""
    return read_table(files(folder))


def columns(folder: Path) -> frozenset[str]:
    """Columns that any row fills, read off the files' ends. Raises RolloutError, of the first rows' numbers too."""
    filled = filled_columns(files(folder))
    next(read_table(files(folder), SMALL), None)
    return filled


def open_columns(folder: Path, columns: Iterable[str]) -> Iterator[pa.RecordBatch]:
    """Some columns, so that nothing else is read from the disk."""
    return read_table(files(folder), columns)
