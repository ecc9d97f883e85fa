"""One file for each trainer: whether a folder holds its log, and the log as batches of the canonical table."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Protocol, cast

import pyarrow as pa

from ckptaudit.errors import RolloutError, printable
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.measure import Rollouts

OWN = "ckptaudit"
NOWHERE = "no option of this trainer records it"


class Reader(Protocol):
    """What a module of this folder offers.

    NAME is the trainer's, FILES the files it is known by, COLUMNS what its log can hold, MISSING the option that
    records a column which it leaves out by default.
    """

    NAME: str
    FILES: str
    COLUMNS: frozenset[str]
    MISSING: Mapping[str, str]

    def recognises(self, folder: Path) -> bool:
        """Whether the folder, or the file, holds this log. Looks at names and first lines only."""

    def files(self, folder: Path) -> list[Path]:
        """The files that are read, in order."""

    def open(self, folder: Path, facts: RunFacts) -> Iterator[pa.RecordBatch]:
        """The log in the order of steps. Raises RolloutError."""


@cache
def readers() -> tuple[Reader, ...]:
    """Every reader of the folder, the project's own table first."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    found = [cast(Reader, module) for module in modules if hasattr(module, "NAME")]
    return tuple(sorted(found, key=lambda reader: (reader.NAME != OWN, reader.NAME)))


def open_rollouts(path: str | Path, facts: RunFacts | None = None) -> Rollouts:
    """The rollouts of a run's folder or file. Raises RolloutError if no reader knows it, or it is empty."""
    folder = Path(path)
    reader = _reader_of(folder)
    declared = facts or RunFacts()
    known_columns = getattr(reader, "columns", None)
    there = known_columns(folder) if known_columns else _columns_there(reader, folder, declared)
    if not there:
        raise RolloutError(f"{printable(folder)}: a log of {reader.NAME} without a single sample.")
    batches = partial(_selected, reader, folder, declared)
    complete = getattr(reader, "WHOLE_STEPS", True)
    return Rollouts(reader.NAME, folder.name, there, reader.MISSING, complete, batches)


def rollout_files(path: str | Path) -> list[Path]:
    """The files of a log that are read, of all that may lie beside them. Raises RolloutError as `open_rollouts`."""
    return _reader_of(Path(path)).files(Path(path))


def _reader_of(folder: Path) -> Reader:
    if not folder.exists():
        raise RolloutError(f"{printable(folder)}: no such folder or file of rollouts.")
    found = [reader for reader in readers() if reader.recognises(folder)]
    if not found:
        known = "; ".join(f"{reader.NAME} ({reader.FILES})" for reader in readers())
        raise RolloutError(f"{printable(folder)}: no log of rollouts that is known: {known}.")
    # The project's own table comes first, and may lie beside what a trainer wrote of the same run.
    if len(found) > 1 and found[0].NAME != OWN:
        several = " and ".join(reader.NAME for reader in found)
        raise RolloutError(f"{printable(folder)}: logs of {several} in one folder; keep each in one of its own.")
    return found[0]


def _columns_there(reader: Reader, folder: Path, facts: RunFacts) -> frozenset[str]:
    """The reader's columns that the log's first rows fill."""
    first = next((batch for batch in reader.open(folder, facts) if batch.num_rows), None)
    if first is None:
        return frozenset()
    return frozenset(
        name for name in reader.COLUMNS & set(first.schema.names) if first.column(name).null_count < first.num_rows
    )


def _selected(reader: Reader, folder: Path, facts: RunFacts, columns: Iterable[str]) -> Iterator[pa.RecordBatch]:
    wanted = set(columns)
    select = getattr(reader, "open_columns", None)
    if select is not None:
        yield from select(folder, wanted)
        return
    for batch in reader.open(folder, facts):
        names = [name for name in batch.schema.names if name in wanted or not batch.schema.field(name).nullable]
        yield batch.select(names)
