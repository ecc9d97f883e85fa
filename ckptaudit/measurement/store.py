"""Measurements by subject, each taken once, however many processes ask."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import msgspec
from filelock import FileLock

from ckptaudit.atomic_write import write_bytes
from ckptaudit.metrics.measurement import Measurement


class Entry(msgspec.Struct, frozen=True):
    """What one unit of work measured."""

    tuned: str
    subject: str
    measurements: tuple[Measurement, ...]


class MeasurementStore:
    """In memory; and in `folder` too, when worker processes share the work through one."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._taken: dict[tuple[str, str], Entry] = {}

    def take(self, tuned: str, subject: str, measure: Callable[[], list[Measurement]]) -> tuple[Measurement, ...]:
        """The measurements of a subject of a run, taken now unless somebody already has."""
        key = (tuned, subject)
        if key not in self._taken:
            self._taken[key] = self._shared(key, measure)
        return self._taken[key].measurements

    def entries(self) -> list[Entry]:
        """All that was taken, by this process and by those that share the folder."""
        for file in sorted(self.folder.glob("*.json")) if self.folder else ():
            entry = msgspec.json.decode(file.read_bytes(), type=Entry)
            self._taken.setdefault((entry.tuned, entry.subject), entry)
        return list(self._taken.values())

    def _shared(self, key: tuple[str, str], measure: Callable[[], list[Measurement]]) -> Entry:
        if self.folder is None:
            return Entry(*key, tuple(measure()))
        file = self.folder / f"{blake2b(msgspec.json.encode(key), digest_size=16).hexdigest()}.json"
        with FileLock(file.with_suffix(".lock")):
            if not file.exists():
                write_bytes(file, msgspec.json.encode(Entry(*key, tuple(measure()))))
            return msgspec.json.decode(file.read_bytes(), type=Entry)
