"""The wire format of protocol buffers, as far as event files need it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ckptaudit.errors import RolloutError

Field = tuple[int, int | bytes]
_WIDTHS = {1: 8, 5: 4}


class Damaged(RolloutError):
    """A message that ends within a field."""


def fields(data: bytes) -> Iterator[Field]:
    """(number, value) of each field in order: an integer for a varint, bytes for all others."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield number, value
            continue
        if kind == 2:
            width, place = _varint(data, place)
        elif kind in _WIDTHS:
            width = _WIDTHS[kind]
        else:
            raise Damaged("a field of an unknown kind")
        if place + width > len(data):
            raise Damaged("a field that ends beyond its message")
        yield number, data[place : place + width]
        place += width


def messages(data: bytes, number: int) -> Iterator[bytes]:
    """The bytes of every field of that number."""
    return (value for found, value in fields(data) if found == number and isinstance(value, bytes))


def number_of(value: int | bytes) -> float:
    """A fixed-width field as a float."""
    if isinstance(value, bytes) and len(value) in (4, 8):
        return float(struct.unpack("<f" if len(value) == 4 else "<d", value)[0])
    raise Damaged("a number of another width")


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 70:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise Damaged("an integer that does not end")
