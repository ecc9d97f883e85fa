"""Reader for safetensors: one file, or shards listed in an index. The library validates the headers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open

from ckptaudit.checkpoints.json_files import MAX_DOCUMENT, clipped, file_size
from ckptaudit.checkpoints.storage import StoredTensor, checked_shape, itemsize
from ckptaudit.checkpoints.tensors import TensorHandle
from ckptaudit.errors import CheckpointError, printable
from ckptaudit.foreign_files import open_regular, stamp_of

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


def read_file(path: Path) -> dict[str, TensorHandle]:
    """Handles of one safetensors file. Raises CheckpointError, naming the file and the mend."""
    _validate(path)
    seen = stamp_of(path)
    start, header = _header(path)
    return {name: _stored(path, start, name, header[name], seen).handle(name) for name in sorted(header)}


def _validate(path: Path) -> None:
    """Let the library check lengths, offsets, overlaps and sizes; it bounds the header before reading it."""
    try:
        file_size(path)
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _header(path: Path) -> tuple[int, dict[str, Entry]]:
    # The library tells no offsets and lets the last of two equal names win, so the header is read once more.
    try:
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_DOCUMENT:
                raise ValueError(f"a header of {length:,} bytes")
            raw = json.loads(file.read(length), object_pairs_hook=_unique)
        raw.pop("__metadata__", None)
        return 8 + length, msgspec.convert(raw, dict[str, Entry])
    except (OSError, ValueError, RecursionError, msgspec.ValidationError) as error:
        raise _unreadable(path, error) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in its header")
    return found


def _stored(path: Path, start: int, name: str, entry: Entry, seen: tuple[int, int]) -> StoredTensor:
    if entry.dtype not in DTYPES:
        raise CheckpointError(
            f"{printable(path)}: tensor {clipped(name)} is stored as {clipped(entry.dtype)}, which is not "
            "read; "
            "save it as bfloat16, float16, float32 or float8."
        )
    dtype, shape = DTYPES[entry.dtype], checked_shape(path, name, entry.shape)
    begin, end = entry.data_offsets
    return StoredTensor(path, start + begin, (end - begin) // itemsize(dtype), dtype, shape, stamp=seen)


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{printable(path)}: not a readable safetensors file ({clipped(error)}); "
        "it is probably cut short or damaged, so save or download it again."
    )
