"""JSON beside the weights: bounded, typed, and never trusted to point out of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from ckptaudit.errors import CheckpointError, printable
from ckptaudit.foreign_files import NotRegularError, is_regular, read_regular, regular_size
from ckptaudit.foreign_files.places import Place

MAX_DOCUMENT = 100_000_000  # the limit that the safetensors library sets on its own headers
MAX_SETTINGS = 16 * 2**20
MAX_DEPTH = 64

Document = TypeVar("Document")


def read_document(path: Place, shape: type[Document]) -> Document:
    """The JSON document decoded as `shape`. Raises CheckpointError, naming the file and the mend."""
    return _decoded(path, shape, MAX_DOCUMENT)


def read_settings(path: Place) -> dict[str, object]:
    """A configuration: a JSON object of moderate size and depth. Raises CheckpointError as `read_document` does."""
    settings = _decoded(path, dict[str, object], MAX_SETTINGS)
    if _is_deeper(settings, MAX_DEPTH):
        raise CheckpointError(
            f"{printable(path)}: nested more than {MAX_DEPTH} deep, which no configuration is; "
            "save or download it again."
        )
    return settings


def sibling(listing: Place, name: str) -> Place:
    """The file of that name beside `listing`, which must not be able to point out of its folder.

    The file may be a symlink, since the hub cache makes such; the name itself must be a plain one.
    """
    if name != Path(name).name or name in ("", ".", "..") or "\\" in name or "\0" in name:
        raise CheckpointError(
            f"{printable(listing)}: it names the file '{clipped(name)}', which lies outside the checkpoint's "
            "folder; only files beside it are read."
        )
    path: Place = listing.parent / name
    if not is_regular(path):
        raise CheckpointError(
            f"{printable(listing)}: shard {clipped(name)} is missing from {printable(listing.parent)}; "
            "finish the download or copy it."
        )
    return path


def clipped(name: object) -> str:
    """A name from a file, fit for one line of a message: control characters escaped, at most 120 long."""
    text = str(name)
    return printable(text) if len(text) <= 120 else printable(text[:100]) + f"... ({len(text)} characters)"


def reason(error: Exception) -> str:
    """What went wrong, without the path that an operating system's message repeats."""
    return clipped(getattr(error, "strerror", None) or error)


def file_size(path: Place) -> int:
    """Size in bytes of a regular file; a pipe or a device could block or never end, so those are refused."""
    try:
        return regular_size(path)
    except NotRegularError as error:
        raise CheckpointError(
            f"{printable(path)}: {error.strerror}; pass the file that holds the weights."
        ) from error


def _decoded(path: Place, shape: type[Document], limit: int) -> Document:
    try:
        return msgspec.json.decode(read_regular(path, limit), type=shape)
    except (OSError, RecursionError, ValueError, msgspec.DecodeError) as error:
        raise CheckpointError(
            f"{printable(path)}: this JSON file cannot be read ({reason(error)}); save or download it again."
        ) from error


def _is_deeper(value: object, depth: int) -> bool:
    """Whether lists and objects stand within each other more than `depth` times; breadth first, so no recursion."""
    level: list[object] = [value]
    for _ in range(depth):
        level = [inner for outer in level for inner in _inner(outer)]
        if not level:
            return False
    return True


def _inner(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
