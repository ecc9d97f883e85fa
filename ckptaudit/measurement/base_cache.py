"""What was worked out about a base's matrices, kept from run to run.

A base stays the same while runs come and go, so what rests on it alone is computed once. An entry is found
by the contents of the matrix, never by a path or a date; it is one safetensors file, sealed by a digest
over every byte. Whatever goes wrong here costs time and nothing else: the caller computes again.

Looking after the folder takes no torch, so it is imported only where tensors are handled.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from ckptaudit.atomic_write import PART, replacing
from ckptaudit.errors import CacheError, parameter, printable
from ckptaudit.foreign_files.places import Place
from ckptaudit.measurement.cache_entries import entry_content, sealed, unsealed
from ckptaudit.measurement.cache_records import BaseRecord, by_last_use, groups
from ckptaudit.sizes import format_size

if TYPE_CHECKING:
    from torch import Tensor

LIMIT = "CKPTAUDIT_CACHE_LIMIT"
OFF = "off"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What costs a cache, and no audit: a full disk, or one that takes nothing."""
DEFAULT_LIMIT = 20 * 2**30

ENTRY = re.compile(r"[0-9a-f]{64}\.safetensors")
RECORD = re.compile(r"[0-9a-f]{64}\.base")
UNFINISHED = re.compile(rf"{PART}|[0-9a-f]{{64}}\.\w+\.part")
"""A half-written file; the second form is that of earlier releases."""
ABANDONED_S = 3600
"""Age at which a half-written file is taken for the leftover of a process that died."""

TAG = """Signature: 8a477f597d28d172789f06886806bc55
# Caches of ckptaudit; may be deleted at any time. About this file: https://bford.info/cachedir/
"""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a cache folder holds: number of entries, and bytes in all."""

    entries: int
    size: int


@dataclass(frozen=True, slots=True)
class Shortfall:
    """The bytes for which a cache had no room, what it may hold, and why nothing could be kept, if so."""

    refused: int
    allowed: int
    trouble: str | None = None

    def since(self, before: Shortfall) -> Shortfall | None:
        """What has come to it; None if nothing has."""
        more = self.refused - before.refused
        return replace(self, refused=more) if more or self.trouble != before.trouble else None


class FactorCache:
    """Entries by key in one folder, private to the user, safe for any number of processes at once.

    `limit` bounds the bytes kept; entries of the base used longest ago go first, those of the base in use never.
    What is missing is looked for in `shared`, a folder or a prefix in an object store that is only read. `trouble`
    says why nothing could be kept, once that has happened. Raises CacheError if `folder` is not a folder and cannot
    be made one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limit: int = DEFAULT_LIMIT,
        asked_by: str = parameter("cache"),
        shared: Place | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self.limit = limit
        self.shared = shared
        self.trouble: str | None = None
        self.written = 0
        self.refused = 0
        self._record: BaseRecord | None = None
        self._allowed = limit
        self._room = 0  # bytes that may be written before the folder has to be looked over again
        self._smallest_refused: float = inf
        try:
            _make_folder(self.folder)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            if getattr(error, "errno", None) in NO_ROOM:
                self.trouble = f"{printable(self.folder)}: {why}"
                return
            raise CacheError(
                f"{asked_by} {printable(folder)}: not a folder, nor can it be made one ({printable(why)}); "
                f"name another one, or {OFF}."
            ) from error

    def belongs_to(self, fingerprint: str) -> None:
        """Say of which base the entries are that are read and written from here on."""
        if self.trouble is None:
            self._record = BaseRecord.of(self.folder, fingerprint)

    @property
    def shortfall(self) -> Shortfall:
        """What could not be kept by this process so far."""
        return Shortfall(self.refused, self._allowed, self.trouble)

    def add_shortfall(self, other: Shortfall) -> None:
        """Count what another process, of the same cache, could not keep."""
        self.refused += other.refused
        self._allowed = min(self._allowed, other.allowed)
        self.trouble = self.trouble or other.trouble

    @property
    def shortage(self) -> str | None:
        """What this base needs, where the cache has too little room for it: nothing else is left to make room."""
        if not self.refused:
            return None
        own = self._own_keys()
        held = sum(stat.st_size for path, stat in self._files() if path.stem in own and ENTRY.fullmatch(path.name))
        needed = format_size(held + self.refused)
        return (
            f"this base needs {needed} of a cache that may hold {format_size(self._allowed)}, so that "
            f"{format_size(self.refused)} are computed in every run; {self._remedy(held + self.refused)}"
        )

    def _own_keys(self) -> set[str]:
        return self._record.read_again() if self._record is not None else set()

    def _remedy(self, needed: int) -> str:
        if self._allowed < self.limit:
            return "free room on its disk, or name a folder on another"
        return f"set {LIMIT}={needed // 2**30 + 1}GiB"

    def read(self, key: str) -> dict[str, Tensor] | None:
        """The entry as it was written; None if there is none. A damaged one is removed.

        Every byte is verified, so that a cut-off file or a flipped bit is never taken for factors.
        """
        path = self._path(key)
        try:
            raw = entry_content(path, self.limit)
        except OSError:
            return self._read_shared(key)
        tensors = unsealed(raw, key)
        with suppress(OSError):
            if tensors is None:
                path.unlink(missing_ok=True)
            else:
                os.utime(path)  # of entries without a base, eviction goes by the time of last use
                self._note(key)
        return tensors if tensors is not None else self._read_shared(key)

    def _read_shared(self, key: str) -> dict[str, Tensor] | None:
        """The entry of the cache below; one from an object store is kept, so that it is fetched once."""
        if self.shared is None:
            return None
        try:
            raw = entry_content(self.shared / f"{key}.safetensors", self.limit)
        except OSError:
            return None
        tensors = unsealed(raw, key)
        if tensors is not None and not isinstance(self.shared, Path):
            self.write(key, tensors)
        return tensors

    def _note(self, key: str) -> None:
        if self._record is not None:
            self._record.note(key)

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep an entry, on the CPU. Written aside and renamed: nobody ever reads half of one.

        A full disk or a folder that may not be written loses the entry, never the audit.
        """
        if self.trouble is not None:
            return
        parts = sealed(tensors, key)
        size = sum(len(part) for part in parts)
        try:
            if self._make_room(size):
                self._put(key, parts)
                self._room -= size
                self.written += 1
                self._note(key)
        except OSError as error:
            self.trouble = f"{printable(self.folder)}: {error.strerror or error}"

    def contents(self) -> Contents:
        """How many entries there are, and how large they are in all."""
        sizes = [stat.st_size for path, stat in self._files() if ENTRY.fullmatch(path.name)]
        return Contents(len(sizes), sum(sizes))

    def clear(self) -> Contents:
        """Remove every entry and leftover, and nothing else that may lie in the folder; says what went."""
        files = list(self._files())
        for path, _ in files:
            _remove(path)
        return Contents(sum(1 for path, _ in files if ENTRY.fullmatch(path.name)), sum(s.st_size for _, s in files))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _put(self, key: str, parts: tuple[memoryview | bytes, ...]) -> None:
        # Not forced to the disk: what a power cut leaves of it, the digest tells.
        with replacing(self._path(key), mode=0o600) as file:
            file.writelines(parts)

    def _make_room(self, size: int) -> bool:
        """Whether `size` bytes may be written now, if need be after others went.

        The folder is looked over only when the room found the last time is used up, which is a tenth of the
        limit at most: processes that do not know of each other overshoot by no more than that each.
        """
        if size <= self._room:
            return True
        if size >= self._smallest_refused:
            self.refused += size
            return False
        kept = {path.stem: stat for path, stat in self._entries()}
        held = sum(stat.st_size for stat in kept.values())
        # A cache that fills somebody's disk is no favour: at most half of what is free.
        allowed = self._allowed = min(self.limit, held + shutil.disk_usage(self.folder).free // 2)
        own = self._own_keys()
        if size + sum(stat.st_size for key, stat in kept.items() if key in own) > allowed:
            self.refused += size
            self._smallest_refused = size
            return False
        room = max(size, allowed // 10)
        if held + size > allowed:
            held -= self._evicted(kept, held + room - allowed)
        self._room = min(room, allowed - held)
        return True

    def _evicted(self, kept: Mapping[str, os.stat_result], wanted: int) -> int:
        """Remove `wanted` bytes of entries or more, as far as bases not in use have them; says how many went."""
        gone = 0
        used = {key: stat.st_mtime for key, stat in kept.items()}
        for base, keys in groups(used, by_last_use(self.folder, self._record), self._record):
            if gone >= wanted:
                break
            for key in keys:
                _remove(self._path(key))
                gone += kept[key].st_size
            if base is not None:
                _remove(base.path)
        return gone

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        """The entries; half-written files that nobody can be writing any more are removed on the way."""
        for path, stat in self._files():
            if ENTRY.fullmatch(path.name):
                yield path, stat
            elif UNFINISHED.fullmatch(path.name) and time.time() - stat.st_mtime > ABANDONED_S:
                _remove(path)

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """What the cache itself has put into the folder, recognised by name; other files are never touched."""
        with os.scandir(self.folder) as found:
            for item in found:
                if any(pattern.fullmatch(item.name) for pattern in (ENTRY, RECORD, UNFINISHED)):
                    with suppress(FileNotFoundError):  # another process evicts too
                        yield Path(item.path), item.stat(follow_symlinks=False)


def _remove(path: Path) -> None:
    with suppress(OSError):  # it is gone already, or another system holds it open: then the next look finds it
        path.unlink()


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(OSError):  # it only tells backups what need not be kept
            (folder / "CACHEDIR.TAG").write_text(TAG)
