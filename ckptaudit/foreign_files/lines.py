"""The lines of a file that somebody else wrote: of a regular file alone, and none longer than is allowed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ckptaudit.foreign_files import open_regular


class Line(NamedTuple):
    """A line that is not blank: its number from 1, where it starts, and its bytes with the line feed."""

    number: int
    start: int
    content: bytes


class LongLineError(ValueError):
    """A line of more bytes than are read; `number` counts from 1."""

    def __init__(self, number: int, longest: int) -> None:
        super().__init__(f"longer than {longest:,} bytes")
        self.number = number


def lines_of(path: Path, longest: int) -> Iterator[Line]:
    """The lines that are not blank, one at a time. Raises OSError, and LongLineError past `longest` bytes."""
    number = start = 0
    with io.BufferedReader(open_regular(path)) as file:  # type: ignore[type-var]
        while content := file.readline(longest + 1):
            number += 1
            if len(content) > longest:
                raise LongLineError(number, longest)
            if not content.isspace():
                yield Line(number, start, content)
            start += len(content)
