"""TensorBoard event files, read directly: every value, not the sample of them that its own loader keeps.

A file is a row of records: length (uint64), checksum, bytes, checksum. A record is an Event; simple values and
tensors of one float are taken. A last record that a killed run left unfinished is passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ckptaudit.errors import RolloutError, printable
from ckptaudit.rollouts.files import regular_file
from ckptaudit.rollouts.scalars import ScalarRow
from ckptaudit.rollouts.scalars.wire import Damaged, fields, messages, number_of

NAME = "TensorBoard"
FILES = "events.out.tfevents.*"
MAX_RECORD = 64 * 2**20
_STEP, _SUMMARY = 2, 5
_TAG, _SIMPLE, _TENSOR = 1, 2, 8
_CONTENT, _FLOATS, _DOUBLES = 4, 5, 6


def files(path: Path) -> list[Path]:
    """The files that are read, in order."""
    if path.is_file():
        return [path] if ".tfevents." in path.name else []
    # Oldest first: a resumed run writes a file of its own.
    return sorted((p for p in path.rglob("*.tfevents.*") if p.is_file()), key=lambda p: (p.name, str(p)))


def recognises(path: Path) -> bool:
    """Whether there is an event file in the folder or below."""
    return bool(files(path))


def rows(path: Path) -> Iterator[ScalarRow]:
    """All scalars of all files."""
    for file in files(path):
        regular_file(file)
        with file.open("rb") as stream:
            try:
                for record in _records(stream):
                    yield from _scalars(record)
            except Damaged as error:
                raise RolloutError(f"{printable(file)}: a damaged event file ({error}).") from error


def _records(stream: IO[bytes]) -> Iterator[bytes]:
    while len(header := stream.read(12)) == 12:
        (length,) = struct.unpack("<Q", header[:8])
        if length > MAX_RECORD:
            raise Damaged(f"a record of {length:,} bytes")
        record = stream.read(length)
        if len(record) < length or len(stream.read(4)) < 4:
            return
        yield record


def _scalars(record: bytes) -> Iterator[ScalarRow]:
    step, summaries = 0, []
    for number, value in fields(record):
        if number == _STEP and isinstance(value, int):
            step = value if value < 2**63 else value - 2**64
        elif number == _SUMMARY and isinstance(value, bytes):
            summaries.append(value)
    for summary in summaries:
        for entry in messages(summary, 1):
            yield from _scalar(entry, step)


def _scalar(entry: bytes, step: int) -> Iterator[ScalarRow]:
    tag, found = "", None
    for number, value in fields(entry):
        if number == _TAG and isinstance(value, bytes):
            tag = value.decode("utf-8", "replace")
        elif number == _SIMPLE:
            found = number_of(value)
        elif number == _TENSOR and isinstance(value, bytes):
            found = _single(value)
    if tag and found is not None:
        yield ScalarRow(tag, step, found)


def _single(tensor: bytes) -> float | None:
    """The one float of a tensor; None for any other tensor."""
    for number, value in fields(tensor):
        if number in (_CONTENT, _FLOATS, _DOUBLES) and isinstance(value, bytes) and len(value) in (4, 8):
            wide = number == _DOUBLES or (number == _CONTENT and len(value) == 8)
            return number_of(value) if (len(value) == 8) == wide else None
    return None
