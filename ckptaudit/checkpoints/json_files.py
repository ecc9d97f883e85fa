"""JSON beside the weights: bounded, typed, and never trusted to point out of its folder."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TypeVar

import msgspec

from ckptaudit.errors import CheckpointError, printable

MAX_DOCUMENT = 100_000_000  # the limit that the safetensors library sets on its own headers

Document = TypeVar("Document")


def read_document(path: Path, shape: type[Document]) -> Document:
    """The JSON document decoded as `shape`. Raises CheckpointError, naming the file and the mend."""
    try:
        return msgspec.json.decode(_bounded_bytes(path), type=shape)
    except (OSError, RecursionError, msgspec.DecodeError, UnicodeError) as error:
        raise CheckpointError(
            f"{printable(path)}: this JSON file cannot be read ({reason(error)}); save or download it again."
        ) from error


def sibling(listing: Path, name: str) -> Path:
    """The file of that name beside `listing`, which must not be able to point out of its folder.

    The file may be a symlink, since the hub cache makes such; the name itself must be a plain one.
    """
    if name != Path(name).name or name in ("", ".", "..") or "\\" in name or "\0" in name:
        raise CheckpointError(
            f"{printable(listing)}: it names the file {clipped(name)!r}, which lies outside the checkpoint's "
            "folder; only files beside it are read."
        )
    path = listing.parent / name
    if not path.is_file():
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


def file_size(path: Path) -> int:
    """Size in bytes of a regular file; a pipe or a device could block or never end, so those are refused."""
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise CheckpointError(f"{printable(path)}: not a regular file; pass the file that holds the weights.")
    return facts.st_size


def _bounded_bytes(path: Path) -> bytes:
    if file_size(path) > MAX_DOCUMENT:
        raise CheckpointError(
            f"{printable(path)}: {file_size(path):,} bytes of JSON, more than the {MAX_DOCUMENT:,} that "
            "are read; "
            "this is no index or configuration."
        )
    with path.open("rb") as file:
        return file.read(min(MAX_DOCUMENT, file_size(path)))
