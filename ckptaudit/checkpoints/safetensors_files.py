"""Reader for safetensors: one file, or shards listed in an index."""

from __future__ import annotations

from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open

from ckptaudit.checkpoints.json_files import clipped, file_size
from ckptaudit.checkpoints.safetensors_header import DTYPES, Entry, Header, by_name, parse_header, refuse_faults
from ckptaudit.checkpoints.storage import StoredTensor, checked_shape, itemsize
from ckptaudit.checkpoints.tensors import TensorHandle
from ckptaudit.errors import CheckpointError, printable
from ckptaudit.foreign_files import open_regular, stamp_of
from ckptaudit.foreign_files.places import Place, Stamp
from ckptaudit.sizes import format_size


def read_file(path: Place) -> dict[str, TensorHandle]:
    """Handles of one safetensors file. Raises CheckpointError, naming the file and the mend."""
    seen, header = _checked(path)
    sound: set[tuple[int, ...]] = set()
    return {
        name: _stored(path, header.start, name, entry, seen, sound).handle(name)
        for name, entry in by_name(header).items()
    }


def read_metadata(path: Place) -> dict[str, str]:
    """What the file says of itself beside its tensors. Raises CheckpointError."""
    return _checked(path)[1].metadata


def _checked(path: Place) -> tuple[Stamp, Header]:
    """Stamp and header, the lengths, offsets, overlaps and sizes in it checked."""
    try:
        size = file_size(path)
        if isinstance(path, Path):
            with safe_open(path, framework="pt"):
                pass
        seen = stamp_of(path)
        # The library tells no offsets and lets the last of two equal names win, so the header is read once more.
        with open_regular(path) as file:
            header = parse_header(file)
        if not isinstance(path, Path):
            refuse_faults(header, size)
    except (SafetensorError, OSError, ValueError, RecursionError, msgspec.ValidationError) as error:
        raise _unreadable(path, error) from error
    except MemoryError as error:
        raise CheckpointError(
            f"{printable(path)}: {format_size(size)} do not fit into the memory that this process may address; "
            "raise its limit (ulimit -v)."
        ) from error
    return seen, header


def _stored(
    path: Place, start: int, name: str, entry: Entry, seen: Stamp, sound: set[tuple[int, ...]]
) -> StoredTensor:
    """Where a tensor lies; the shapes found `sound` are not checked again."""
    if entry.dtype not in DTYPES:
        raise CheckpointError(
            f"{printable(path)}: tensor {clipped(name)} is stored as {clipped(entry.dtype)}, which is not "
            "read; "
            "save it as bfloat16, float16, float32 or float8."
        )
    dtype, shape = DTYPES[entry.dtype], tuple(entry.shape)
    if shape not in sound:
        sound.add(checked_shape(path, name, entry.shape))
    begin, end = entry.data_offsets
    return StoredTensor(path, start + begin, (end - begin) // itemsize(dtype), dtype, shape, stamp=seen)


def _unreadable(path: Place, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{printable(path)}: not a readable safetensors file ({clipped(error)}); "
        "it is probably cut short or damaged, so save or download it again."
    )
