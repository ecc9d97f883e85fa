"""An opened object: ranges of it, in parts and several at a time, with what was asked for ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache

from ckptaudit.checkpoints.sources.stores import CONNECTIONS, PART, Opened, Store, with_retries
from ckptaudit.foreign_files.places import Stamp

GAP = 2**16
"""Bytes between two wanted ranges that are read along, rather than asking twice."""


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes that are on their way, and how many of them nobody has taken yet."""

    start: int
    buffer: bytearray
    done: Future[None]

    @property
    def end(self) -> int:
        """The byte behind the last."""
        return self.start + len(self.buffer)


class RemoteSource:
    """The contents of an object as it was at opening. Safe for several threads."""

    def __init__(self, store: Store, key: str, opened: Opened) -> None:
        self.store, self.key, self.opened = store, key, opened
        self._ahead: dict[int, list[Block]] = {}
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self.opened.size

    @property
    def stamp(self) -> Stamp:
        """Size, and ETag or version."""
        return self.opened.size, self.opened.version or self.opened.tag

    def content(self) -> bytes:
        """All of it."""
        found = bytearray(self.size)
        self.read_range(0, memoryview(found))
        return bytes(found)

    def read_range(self, start: int, view: memoryview) -> None:
        """Fill `view` from `start`: out of what is here already, or by requests of at most 8 MiB.

        Raises OSError where the store gives none of it in the end, CheckpointError where the object changed.
        """
        end = start + len(view)
        if start < 0 or end > self.size:
            raise OSError(f"bytes {start:,} to {end:,} lie outside the object")
        if end <= len(self.opened.head):
            view[:] = self.opened.head[start:end]
            return
        block = self._block(start, end)
        if block is not None:
            block.done.result()
            view[:] = memoryview(block.buffer)[start - block.start : end - block.start]
        elif len(view) <= PART:
            self._read(start, view)
        else:
            parts = [self._later(start + at, view[at : at + PART]) for at in range(0, len(view), PART)]
            wait(parts)
            for part in parts:
                part.result()

    def read_ahead(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Begin to read ranges (start, length) that are wanted soon, neighbours by one request.

        What an earlier call of the same thread fetched is dropped, so that memory stays within one call's bytes.
        """
        found = [self._started(start, end) for start, end in coalesced(ranges, self.size)]
        with self._lock:
            self._ahead[threading.get_ident()] = found

    def _block(self, start: int, end: int) -> Block | None:
        with self._lock:
            mine = self._ahead.get(threading.get_ident(), [])
            return next((b for b in mine if b.start <= start and end <= b.end), None)

    def _started(self, start: int, end: int) -> Block:
        buffer = bytearray(end - start)
        return Block(start, buffer, self._later(start, memoryview(buffer)))

    def _later(self, start: int, view: memoryview) -> Future[None]:
        return readers().submit(self._read, start, view)

    def _read(self, start: int, view: memoryview) -> None:
        with_retries(lambda: self.store.read(self.key, start, view, self.opened))


def coalesced(ranges: Iterable[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Ranges (start, length) as few pieces (start, end), none longer than 8 MiB but where one range is.

    Pieces with at most 64 KiB between them become one. Ranges outside the object are left to whoever reads them.
    """
    pieces: list[tuple[int, int]] = []
    for start, length in sorted(set(ranges)):
        end = start + length
        if not 0 <= start < end <= size or length > PART:
            continue
        if pieces and start <= pieces[-1][1] + GAP and max(end, pieces[-1][1]) - pieces[-1][0] <= PART:
            pieces[-1] = (pieces[-1][0], max(end, pieces[-1][1]))
        else:
            pieces.append((start, end))
    return pieces


@cache
def readers() -> ThreadPoolExecutor:
    """The threads that wait for stores."""
    return ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="ckptaudit-remote")
