"""The header of a safetensors file: its entries, and the rules that they must keep.

The safetensors library checks files here. It maps files into memory, which no remote object can be, so the same
rules stand here for those.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any, BinaryIO

import msgspec

from ckptaudit.checkpoints.json_files import MAX_DOCUMENT, clipped
from ckptaudit.checkpoints.storage import itemsize

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}


class Entry(msgspec.Struct):
    """One tensor in a header: its bytes lie between the offsets, counted from the end of the header."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class Header(msgspec.Struct, frozen=True):
    """What a header states: where the data start, the tensors, and the file's own remarks."""

    start: int
    entries: dict[str, Entry]
    metadata: dict[str, str]


def parse_header(file: BinaryIO) -> Header:
    """The header at the start of an open file. Raises OSError, ValueError, RecursionError or ValidationError."""
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_DOCUMENT:
        raise ValueError(f"a header of {length:,} bytes")
    raw = json.loads(_exactly(file, length), object_pairs_hook=_unique)
    if not isinstance(raw, dict):
        raise ValueError("its header is no JSON object")
    metadata = msgspec.convert(raw.pop("__metadata__", {}), dict[str, str])
    return Header(8 + length, msgspec.convert(raw, dict[str, Entry]), metadata)


def refuse_faults(header: Header, size: int) -> None:
    """Raise ValueError for what the safetensors library refuses.

    Tensors must follow each other without gaps or overlaps, have as many bytes as type and shape say, and end
    with the file.
    """
    at = 0
    for name, entry in sorted(header.entries.items(), key=lambda one: one[1].data_offsets):
        begin, end = entry.data_offsets
        if begin != at or end < begin:
            raise ValueError(f"tensor {clipped(name)} does not begin where the one before it ends")
        if entry.dtype in DTYPES and end - begin != _bytes(entry):
            raise ValueError(f"tensor {clipped(name)} has not the number of bytes that its type and shape say")
        at = end
    if header.start + at != size:
        raise ValueError(f"{size:,} bytes, where its header describes {header.start + at:,}")


def by_name(header: Header) -> Mapping[str, Entry]:
    """The entries in the order of their names."""
    return {name: header.entries[name] for name in sorted(header.entries)}


def _bytes(entry: Entry) -> int:
    if len(entry.shape) > 64 or any(size < 0 for size in entry.shape):
        raise ValueError("a shape is no list of sizes")
    return prod(entry.shape) * itemsize(DTYPES[entry.dtype])


def _exactly(file: BinaryIO, length: int) -> bytes:
    found = file.read(length)
    if len(found) != length:
        raise ValueError("its header ends beyond the file")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in its header")
    return found
