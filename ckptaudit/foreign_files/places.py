"""What a file is to a reader, wherever it lies: a place in a folder, and a source of its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

Stamp = tuple[int, int | str]
"""What tells a file from another in its place: its size, and the time of its last change or its ETag."""


class Source(Protocol):
    """One file outside this machine, as it was when it was opened; every read is of that same file.

    Raises OSError where it cannot be reached, and CheckpointError where it is no longer the same.
    """

    @property
    def size(self) -> int:
        """Bytes of the file."""
        ...

    @property
    def stamp(self) -> Stamp:
        """Its size, and the ETag or version that the store gave at opening."""
        ...

    def read_range(self, start: int, view: memoryview) -> None:
        """Fill `view` with the bytes from `start`."""
        ...

    def read_ahead(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Begin to read ranges (start, length) that are wanted soon."""
        ...

    def content(self) -> bytes:
        """All of it; asked for of small files alone."""
        ...


class RemotePlace(Protocol):
    """A file or folder of an object store, with the few methods of `pathlib.Path` that readers use."""

    @property
    def name(self) -> str:
        """The last part."""
        ...

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        ...

    @property
    def parent(self) -> RemotePlace:
        """The folder around it."""
        ...

    def __truediv__(self, name: str) -> RemotePlace: ...

    @property
    def lists_nothing(self) -> bool:
        """Whether the store does not tell what it holds, so that only known names are found."""
        ...

    @property
    def was_refused(self) -> bool:
        """Whether the store refused access to a name that was asked for."""
        ...

    def exists(self) -> bool:
        """Whether it is a file or a folder."""
        ...

    def is_file(self) -> bool:
        """Whether an object has this name."""
        ...

    def is_dir(self) -> bool:
        """Whether objects lie below it."""
        ...

    def size(self) -> int:
        """Bytes of the file. Raises OSError if there is no such object."""
        ...

    def iterdir(self) -> Iterator[RemotePlace]:
        """What lies directly in it."""
        ...

    def glob(self, pattern: str) -> Iterator[RemotePlace]:
        """What lies directly in it under names of a pattern."""
        ...

    def open_all(self, names: Iterable[str]) -> None:
        """Open several files of this folder at once; nothing is raised."""
        ...

    def source(self) -> Source:
        """Its bytes. Raises OSError if there is no such object."""
        ...


Place = Path | RemotePlace
"""A file or folder, here or in an object store."""
