"""Files that appear complete or not at all: written beside, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EISDIR
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from ckptaudit.foreign_files.outputs import refuse_special

PART = r"\.ckptaudit-[0-9a-f]{16}\.part"
"""Names of files that are being written, as a regular expression; a process that is killed leaves one behind."""


@contextmanager
def replacing(path: Path, *, mode: int = 0o666, durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends without an error.

    After an error, an interruption or a full disk nothing is left but what was there before; a process that is
    killed leaves at most a hidden file named as PART says. `mode` holds the permissions, less the umask's;
    `durable` waits until the content is on the disk, so that it also outlives a power cut. The folder must
    exist. Raises OSError, also for a pipe or a device, which would be gone.
    """
    if path.is_dir():
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), str(path))
    refuse_special(path)
    # In the same folder: a rename between file systems is a copy, and a copy can be seen half done.
    part = path.with_name(f".ckptaudit-{token_hex(8)}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(handle, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file in one go; folders are made where they are missing. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=durable) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Write a text in UTF-8 in one go; folders are made where they are missing. Raises OSError."""
    write_bytes(path, content.encode())
