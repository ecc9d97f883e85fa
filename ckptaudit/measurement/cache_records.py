"""Which entries of the cache belong to which base, so that those of one base stay and go together.

A record is a file beside the entries, named by a digest of the base's fingerprint: the keys that audits of this
base have read or written, one a line. Its time of modification is when the base was last used. A record that is
lost or cut short costs order, never an entry.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from ckptaudit.foreign_files import read_regular

ENDING = ".base"
KEY = re.compile(r"[0-9a-f]{64}")
LINE = 65
"""Bytes of a key and the end of its line."""

MOST = LINE * 2**20
"""Bytes that are read of a record: a million matrices."""

TOUCHED_S = 60.0
"""Seconds after which a base in use is marked as used once more."""


@dataclass
class BaseRecord:
    """The record of one base, as far as this process has read and written it."""

    path: Path
    keys: set[str] = field(default_factory=set)
    marked: float = 0.0

    @classmethod
    def of(cls, folder: Path, fingerprint: str) -> BaseRecord:
        """That of the base with this fingerprint, what earlier audits wrote read."""
        path = folder / f"{blake3(fingerprint.encode()).hexdigest()}{ENDING}"
        return cls(path, set(_keys(path)))

    def read_again(self) -> set[str]:
        """The keys, those that other processes have written down meanwhile included."""
        self.keys.update(_keys(self.path))
        return self.keys

    def note(self, key: str) -> None:
        """Write down that the base uses an entry, unless that is known; trouble with the file is no trouble."""
        with suppress(OSError):
            if key not in self.keys:
                self.keys.add(key)
                _append(self.path, f"{key}\n".encode())
            elif time.monotonic() - self.marked > TOUCHED_S:
                os.utime(self.path)
            else:
                return
            self.marked = time.monotonic()


def by_last_use(folder: Path, own: BaseRecord | None) -> list[BaseRecord]:
    """The records of other bases in a folder, that used longest ago first."""
    found = []
    for path in folder.glob(f"*{ENDING}"):
        with suppress(OSError):
            if own is None or path != own.path:
                found.append((path.stat().st_mtime_ns, path))
    return [BaseRecord(path, set(_keys(path))) for _, path in sorted(found)]


def groups(
    entries: Mapping[str, float], bases: Sequence[BaseRecord], own: BaseRecord | None
) -> Iterator[tuple[BaseRecord | None, list[str]]]:
    """Keys as they may be removed, in that order: each that no base is known for, then base by base.

    `entries` are the times of last use by key. An entry of several bases goes with the one used last; those of
    `own` never do.
    """
    kept = set(own.keys) if own is not None else set[str]()
    waiting: list[tuple[BaseRecord, list[str]]] = []
    for base in reversed(bases):
        waiting.append((base, [key for key in base.keys if key in entries and key not in kept]))
        kept |= base.keys
    yield from ((None, [key]) for key in sorted(set(entries) - kept, key=entries.__getitem__))
    yield from reversed(waiting)


def _keys(path: Path) -> Iterable[str]:
    try:
        text = read_regular(path, MOST).decode("ascii", "replace")
    except OSError:
        return ()
    return KEY.findall(text)


def _append(path: Path, line: bytes) -> None:
    # A line is written at once and at the end, whoever else writes. A link is not followed, nor a pipe waited for.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, flags, 0o600)
    try:
        os.write(handle, line)
    finally:
        os.close(handle)
