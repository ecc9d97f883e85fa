"""JSON lines, one at a time: bounded, typed, and with a line that a killed run left unfinished passed over."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ckptaudit.errors import RolloutError, printable
from ckptaudit.foreign_files import open_regular
from ckptaudit.foreign_files.lines import Line, LongLineError, lines_of

MAX_LINE = 256 * 2**20

Shape = TypeVar("Shape")


def json_lines(path: Path, shape: type[Shape]) -> Iterator[Shape]:
    """The lines decoded as `shape`. NaN and Infinity are read, since Python's json writes them.

    Raises RolloutError naming file and line.
    """
    decoder = msgspec.json.Decoder(shape)
    for line in log_lines(path):
        yield from _decoded(line.content, decoder, path, line.number)


def json_lines_in_order(path: Path, shape: type[Shape], order: list[int]) -> Iterator[Shape]:
    """Lines by their position, from 0, among those that are not blank. Raises RolloutError as `json_lines` does."""
    decoder = msgspec.json.Decoder(shape)
    places = [(line.number, line.start, len(line.content)) for line in log_lines(path)]
    if any(position >= len(places) for position in order):
        raise RolloutError(f"{printable(path)}: has lost lines while it was read; read it once it is complete.")
    with open_regular(path) as file:
        for number, start, size in (places[position] for position in order):
            file.seek(start)
            yield from _decoded(file.read(size), decoder, path, number)


def first_line(path: Path) -> dict[str, Any] | None:
    """The first line if it is a JSON object, else None; for recognising a format."""
    try:
        return next(iter(json_lines(path, dict[str, Any])), None)
    except RolloutError:
        return None


def first_line_of(paths: Iterable[Path]) -> dict[str, Any] | None:
    """The first such line of several files: one that is empty, as of a run that was killed there, tells nothing."""
    return next((line for path in paths if (line := first_line(path)) is not None), None)


def log_lines(path: Path, longest: int = MAX_LINE) -> Iterator[Line]:
    """The lines of a log as they are, of at most `longest` bytes. Raises RolloutError naming file and line."""
    try:
        yield from lines_of(path, longest)
    except LongLineError as error:
        raise RolloutError(f"{printable(path)}: line {error.number} is {error}.") from None
    except OSError as error:
        raise RolloutError(f"{printable(path)}: cannot be read ({printable(error.strerror or error)}).") from error


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
