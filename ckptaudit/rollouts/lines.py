"""JSON lines, one at a time: bounded, typed, and with a line that a killed run left unfinished passed over."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ckptaudit.errors import RolloutError, printable
from ckptaudit.foreign_files import open_regular

MAX_LINE = 256 * 2**20

Shape = TypeVar("Shape")


def json_lines(path: Path, shape: type[Shape]) -> Iterator[Shape]:
    """The lines decoded as `shape`. NaN and Infinity are read, since Python's json writes them.

    Raises RolloutError naming file and line.
    """
    decoder = msgspec.json.Decoder(shape)
    try:
        with io.BufferedReader(open_regular(path)) as file:  # type: ignore[type-var]
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise RolloutError(f"{printable(path)}: line {number} is longer than {MAX_LINE:,} bytes.")
                if line.strip():
                    yield from _decoded(line, decoder, path, number)
    except OSError as error:
        raise RolloutError(f"{printable(path)}: cannot be read ({printable(error.strerror or error)}).") from error


def json_lines_in_order(path: Path, shape: type[Shape], order: list[int]) -> Iterator[Shape]:
    """The lines of a file that `json_lines` has read before, by their number among those that are not empty."""
    decoder = msgspec.json.Decoder(shape)
    with path.open("rb") as file:
        offsets = []
        while (start := file.tell(), line := file.readline())[1]:
            if line.strip():
                offsets.append(start)
        for number in order:
            file.seek(offsets[number])
            yield from _decoded(file.readline(MAX_LINE + 1), decoder, path, number + 1)


def first_line(path: Path) -> dict[str, Any] | None:
    """The first line if it is a JSON object, else None; for recognising a format."""
    try:
        return next(iter(json_lines(path, dict[str, Any])), None)
    except RolloutError:
        return None


def _decoded(line: bytes, decoder: msgspec.json.Decoder[Shape], path: Path, number: int) -> Iterator[Shape]:
    try:
        yield decoder.decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as strict:
        try:
            yield msgspec.convert(json.loads(line), decoder.type)
        except (ValueError, RecursionError, msgspec.ValidationError) as error:
            if not line.endswith(b"\n") and not isinstance(error, msgspec.ValidationError):
                return
            said = strict if isinstance(strict, msgspec.ValidationError) else error
            raise RolloutError(
                f"{printable(path)}: line {number} is not what this log holds ({printable(str(said)[:160])})."
            ) from error
