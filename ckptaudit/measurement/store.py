"""Measurements by unit of work, each taken once, however many processes ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path

import msgspec
from filelock import FileLock

from ckptaudit.atomic_write import write_bytes
from ckptaudit.measurement.jobs import Unit
from ckptaudit.metrics import Measurement

Rows = tuple[Measurement, ...]


class Entry(msgspec.Struct, frozen=True):
    """What one unit of work measured."""

    unit: Unit
    measurements: Rows


class MeasurementStore:
    """In memory; and in `folder` too, when worker processes share the work through one."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._taken: dict[Unit, Entry] = {}

    def __contains__(self, unit: Unit) -> bool:
        return unit in self._taken

    def __getitem__(self, unit: Unit) -> Rows:
        return self._taken[unit].measurements

    def take(self, unit: Unit, measure: Callable[[], Iterable[Measurement]]) -> Rows:
        """The measurements of a unit, taken now unless somebody already has."""
        if unit not in self._taken:
            self._taken[unit] = self._shared(unit, measure)
        return self._taken[unit].measurements

    def entries(self) -> list[Entry]:
        """All that was taken, by this process and by those that share the folder, in the order of the units."""
        for file in sorted(self.folder.glob("*.json")) if self.folder else ():
            entry = msgspec.json.decode(file.read_bytes(), type=Entry)
            self._taken.setdefault(entry.unit, entry)
        return sorted(self._taken.values(), key=lambda entry: msgspec.structs.astuple(entry.unit))

    def _shared(self, unit: Unit, measure: Callable[[], Iterable[Measurement]]) -> Entry:
        if self.folder is None:
            return Entry(unit, tuple(measure()))
        file = self.folder / f"{blake2b(msgspec.json.encode(unit), digest_size=16).hexdigest()}.json"
        with FileLock(file.with_suffix(".lock")):
            if not file.exists():
                write_bytes(file, msgspec.json.encode(Entry(unit, tuple(measure()))))
            return msgspec.json.decode(file.read_bytes(), type=Entry)
