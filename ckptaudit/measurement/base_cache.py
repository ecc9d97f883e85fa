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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from ckptaudit.atomic_write import PART, replacing
from ckptaudit.errors import CacheError, parameter, printable
from ckptaudit.foreign_files import read_regular
from ckptaudit.sizes import parse_size

if TYPE_CHECKING:
    from torch import Tensor

LOCATION = "CKPTAUDIT_CACHE"
LIMIT = "CKPTAUDIT_CACHE_LIMIT"
OFF = "off"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What costs a cache, and no audit: a full disk, or one that takes nothing."""
DEFAULT_LIMIT = 20 * 2**30

ENTRY = re.compile(r"[0-9a-f]{64}\.safetensors")
UNFINISHED = re.compile(rf"{PART}|[0-9a-f]{{64}}\.\w+\.part")
"""A half-written file; the second form is that of earlier releases."""
ABANDONED_S = 3600
"""Age at which a half-written file is taken for the leftover of a process that died."""

BLANK = b"0" * 64
SEAL = b'"checksum":"'
TAG = """Signature: 8a477f597d28d172789f06886806bc55
# Caches of ckptaudit; may be deleted at any time. About this file: https://bford.info/cachedir/
"""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a cache folder holds: number of entries, and bytes in all."""

    entries: int
    size: int


def entry_key(stored: Tensor, *, definition: str) -> str:
    """Digest of a tensor's bytes, dtype and shape, and of `definition`: what is kept of it, in which version.

    BLAKE3, 64 hexadecimal digits. Two tensors share a key only if they are bitwise the same.
    """
    import torch

    flat = stored.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest = blake3(repr((definition, str(stored.dtype), tuple(stored.shape))).encode())
    digest.update(flat.numpy().data)
    return digest.hexdigest()


def open_cache(given: str | None = None) -> FactorCache | None:
    """The cache at `given`, else at $CKPTAUDIT_CACHE, else in the user's own cache folder; None for `off`.

    Raises CacheError if the folder that was asked for cannot be one, or $CKPTAUDIT_CACHE_LIMIT is no size.
    """
    asked = given or os.environ.get(LOCATION) or None
    if asked == OFF:
        return None
    limit = _limit()
    if asked is not None:
        asked_by = parameter("cache") if given else LOCATION
        return FactorCache(_expanded(asked, asked_by), limit=limit, asked_by=asked_by)
    # Nobody asked for one: without a home, or room in it, there is simply no cache.
    folder = _default_folder()
    if folder is None:
        return None
    try:
        cache = FactorCache(folder, limit=limit)
    except CacheError:
        return None
    return None if cache.trouble else cache


class FactorCache:
    """Entries by key in one folder, private to the user, safe for any number of processes at once.

    `limit` bounds the bytes kept; the entries used longest ago go first. `trouble` says why nothing could be
    kept, once that has happened. Raises CacheError if `folder` is not a folder and cannot be made one.
    """

    def __init__(self, folder: Path, *, limit: int = DEFAULT_LIMIT, asked_by: str = parameter("cache")) -> None:
        self.folder = folder.absolute()
        self.limit = limit
        self.trouble: str | None = None
        self._room = 0  # bytes that may be written before the folder has to be looked over again
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

    def read(self, key: str) -> dict[str, Tensor] | None:
        """The entry as it was written; None if there is none. A damaged one is removed.

        Every byte is verified, so that a cut-off file or a flipped bit is never taken for factors.
        """
        path = self._path(key)
        try:
            raw = read_regular(path, self.limit)
        except OSError:
            return None
        tensors = _unseal(raw, key)
        with suppress(OSError):
            if tensors is None:
                path.unlink(missing_ok=True)
            else:
                os.utime(path)  # eviction goes by the time of last use
        return tensors

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep an entry, on the CPU. Written aside and renamed: nobody ever reads half of one.

        A full disk or a folder that may not be written loses the entry, never the audit.
        """
        if self.trouble is not None:
            return
        parts = _seal(tensors, key)
        size = sum(len(part) for part in parts)
        try:
            if self._make_room(size):
                self._put(key, parts)
                self._room -= size
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
        kept = sorted(self._entries(), key=lambda entry: entry[1].st_mtime)
        held = sum(stat.st_size for _, stat in kept)
        # A cache that fills somebody's disk is no favour: at most half of what is free.
        allowed = min(self.limit, held + shutil.disk_usage(self.folder).free // 2)
        if size > allowed:
            return False
        room = max(size, allowed // 10)
        keep = allowed - room if held + size > allowed else held
        for path, stat in kept:
            if held <= keep:
                break
            _remove(path)
            held -= stat.st_size
        self._room = min(room, allowed - held)
        return True

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        """The entries; half-written files that nobody can be writing any more are removed on the way."""
        for path, stat in self._files():
            if ENTRY.fullmatch(path.name):
                yield path, stat
            elif time.time() - stat.st_mtime > ABANDONED_S:
                _remove(path)

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """What the cache itself has put into the folder, recognised by name; other files are never touched."""
        with os.scandir(self.folder) as found:
            for item in found:
                if ENTRY.fullmatch(item.name) or UNFINISHED.fullmatch(item.name):
                    with suppress(FileNotFoundError):  # another process evicts too
                        yield Path(item.path), item.stat(follow_symlinks=False)


def _seal(tensors: Mapping[str, Tensor], key: str) -> tuple[memoryview | bytes, ...]:
    """The entry's bytes, with their digest in the header's own metadata: any safetensors reader opens it."""
    from safetensors.torch import save

    raw = save({name: _own(tensor) for name, tensor in tensors.items()}, {"checksum": BLANK.decode()})
    at = raw.index(SEAL + BLANK) + len(SEAL)
    return memoryview(raw)[:at], _digest(raw, at, key), memoryview(raw)[at + len(BLANK) :]


def _unseal(raw: bytes, key: str) -> dict[str, Tensor] | None:
    from safetensors import SafetensorError
    from safetensors.torch import load

    at = raw.find(SEAL, 0, 8 + int.from_bytes(raw[:8], "little")) + len(SEAL)
    if at < len(SEAL) or raw[at : at + len(BLANK)] != _digest(raw, at, key):
        return None
    try:
        return load(raw)
    except (SafetensorError, KeyError, ValueError, RuntimeError):
        return None  # sealed by a later release, with a dtype that this one does not know


def _digest(raw: bytes, at: int, key: str) -> bytes:
    """Digest of an entry, its own place left blank; with the key, so that no entry answers for another."""
    digest = blake3(key.encode())
    for part in (memoryview(raw)[:at], BLANK, memoryview(raw)[at + len(BLANK) :]):
        digest.update(part)
    return digest.hexdigest().encode()


def _own(tensor: Tensor) -> Tensor:
    """The tensor on the CPU in memory of its own: the format keeps no strides and no shared storage."""
    here = tensor.detach().cpu()
    alone = here.untyped_storage().nbytes() == here.nbytes
    return here.contiguous() if alone else here.clone().contiguous()


def _remove(path: Path) -> None:
    with suppress(OSError):  # it is gone already, or another system holds it open: then the next look finds it
        path.unlink()


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(OSError):  # it only tells backups what need not be kept
            (folder / "CACHEDIR.TAG").write_text(TAG)


def _expanded(asked: str, asked_by: str) -> Path:
    try:
        return Path(asked).expanduser()
    except RuntimeError as error:
        raise CacheError(f"{asked_by} {printable(asked)}: this user has no home; name another folder.") from error


def _default_folder() -> Path | None:
    from platformdirs import user_cache_path

    try:
        folder = user_cache_path("ckptaudit", appauthor=False)
    except RuntimeError:  # no home is set, and the system does not know this user
        return None
    # Earlier releases give a path that begins with a tilde instead.
    return folder if folder.is_absolute() else None


def _limit() -> int:
    text = os.environ.get(LIMIT)
    if not text:
        return DEFAULT_LIMIT
    try:
        return parse_size(text)
    except ValueError as error:
        raise CacheError(f"{LIMIT}={printable(text)}: {error}.") from None
