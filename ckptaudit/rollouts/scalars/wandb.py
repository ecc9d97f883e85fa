"""wandb's offline files, `offline-run-*/run-{id}.wandb`: a log of records in blocks of 32 KiB, as LevelDB has it.

Tested with a file of wandb 0.31.0; the layout is not documented by its makers and may change. Only histories are
read: items of a name and a JSON value, among them `_step`.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ckptaudit.errors import RolloutError, printable
from ckptaudit.rollouts.files import regular_file
from ckptaudit.rollouts.scalars import ScalarRow
from ckptaudit.rollouts.scalars.wire import Damaged, fields, messages

NAME = "wandb"
FILES = "offline-run-*/run-*.wandb"
HEADER = b":W&B\xe1\xbe\x00"
BLOCK = 32_768
MAX_RECORD = 64 * 2**20
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_HISTORY, _ITEM, _STEP, _NUMBER, _KEY, _NESTED, _VALUE = 2, 1, 2, 1, 1, 2, 16


def files(path: Path) -> list[Path]:
    """The files that are read, in order."""
    if path.is_file():
        return [path] if path.suffix == ".wandb" else []
    return sorted(p for p in path.rglob("run-*.wandb") if p.is_file())


def recognises(path: Path) -> bool:
    """Whether there is such a file in the folder or below."""
    return bool(files(path))


def rows(path: Path) -> Iterator[ScalarRow]:
    """All numbers of all histories."""
    for file in files(path):
        regular_file(file)
        with file.open("rb") as stream:
            try:
                for record in _records(stream):
                    for history in messages(record, _HISTORY):
                        yield from _numbers(history)
            except Damaged as error:
                raise RolloutError(f"{printable(file)}: not a log that wandb wrote ({error}).") from error


def _records(stream: IO[bytes]) -> Iterator[bytes]:
    if stream.read(len(HEADER)) != HEADER:
        raise Damaged("it begins otherwise")
    parts: list[bytes] = []
    while True:
        left = BLOCK - stream.tell() % BLOCK
        if left < 7:
            stream.seek(left, 1)
        header = stream.read(7)
        if len(header) < 7:
            return  # what a killed run left unfinished
        length, kind = struct.unpack("<HB", header[4:])
        data = stream.read(length)
        if len(data) < length:
            return
        parts = [data] if kind in (_FULL, _FIRST) else [*parts, data]
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or sum(map(len, parts)) > MAX_RECORD:
            raise Damaged("a record of an unknown kind or size")
        if kind in (_FULL, _LAST):
            yield b"".join(parts)


def _numbers(history: bytes) -> Iterator[ScalarRow]:
    values = dict(item for entry in messages(history, _ITEM) if (item := _item(entry)))
    step = values.pop("_step", None)
    at = _step_of(history) if step is None else int(step) if math.isfinite(step) else None
    if at is not None:
        for name, value in values.items():
            yield ScalarRow(name, at, value)


def _step_of(history: bytes) -> int | None:
    """The step of the record itself, for want of an item of it. A step of 0 is an empty message: zeros are not
    written.
    """
    for step in messages(history, _STEP):
        return next((number for name, number in fields(step) if name == _NUMBER and isinstance(number, int)), 0)
    return None


def _item(entry: bytes) -> tuple[str, float] | None:
    keys, value = [], None
    for number, data in fields(entry):
        if isinstance(data, bytes) and number in (_KEY, _NESTED):
            keys.append(data.decode("utf-8", "replace"))
        elif isinstance(data, bytes) and number == _VALUE:
            value = _json_number(data)
    return None if value is None or not keys else (".".join(keys), value)


def _json_number(data: bytes) -> float | None:
    """The number, NaN included; None for a text or anything longer than a number."""
    if len(data) > 64:
        return None
    try:
        value = json.loads(data)
    except ValueError:
        return None
    if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
        return float(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
