"""A remote file as the raw file object that readers of archives and pickles expect."""

from __future__ import annotations

import io
from typing import Any

from ckptaudit.foreign_files.places import Source

WINDOW = 2**15
"""Bytes fetched at once where fewer are asked for; the next read is mostly of what follows."""


class SourceFile(io.RawIOBase):
    """Reads by position over a source; small reads are served out of one window of 32 KiB."""

    def __init__(self, source: Source) -> None:
        self._source, self._at = source, 0
        self._first, self._window = 0, b""

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position of the next read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position. Raises OSError for one before the start."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size}[whence]
        if origin + offset < 0:
            raise OSError("an offset lies before the file")
        self._at = origin + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, or as much of it as the file still has."""
        view = memoryview(buffer).cast("B")
        count = min(len(view), max(0, self._source.size - self._at))
        if count > WINDOW:
            self._source.read_range(self._at, view[:count])
        elif count:
            view[:count] = self._small(count)
        self._at += count
        return count

    def _small(self, count: int) -> bytes:
        start = self._at - self._first
        if not 0 <= start <= len(self._window) - count:
            window = bytearray(min(WINDOW, self._source.size - self._at))
            self._source.read_range(self._at, memoryview(window))
            self._first, self._window, start = self._at, bytes(window), 0
        return self._window[start : start + count]
