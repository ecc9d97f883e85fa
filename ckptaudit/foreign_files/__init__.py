"""The one place that opens a file which somebody else wrote: regular files only, and never more than is asked for.

A pipe would be waited for, a device never ends, a folder is no file; none of them may stand where a file is
expected, whoever named it. An object of a remote store is read through the same functions.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, cast

from ckptaudit.foreign_files.places import Place, Stamp
from ckptaudit.foreign_files.source_file import SourceFile

MAX_TEXT = 16 * 2**20
"""Bytes of a file that people write: checks, configuration."""


class NotRegularError(OSError):
    """A pipe, a socket, a device or a directory stands where a file is expected."""


def regular_size(path: Place) -> int:
    """Size in bytes. Raises OSError, whose `strerror` says so if it is no regular file."""
    if not isinstance(path, Path):
        return path.source().size
    return _size(_facts(path), path)


def stamp(facts: os.stat_result) -> Stamp:
    """Size and time of the last change: other ones mean that the file is not what it was."""
    return facts.st_size, facts.st_mtime_ns


def stamp_of(path: Place) -> Stamp:
    """The same of what stands at a path; of an object, its size and ETag. Raises OSError."""
    if not isinstance(path, Path):
        return path.source().stamp
    return stamp(_facts(path))


def open_regular(path: Place) -> BinaryIO:
    """The file opened for reading, unbuffered. Raises OSError if it is missing, unreadable or no regular file."""
    if not isinstance(path, Path):
        return cast(BinaryIO, SourceFile(path.source()))
    try:
        # A pipe without a writer would block even the opening of it; of a regular file the flag changes nothing.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:
        raise OSError(errno.EINVAL, "no path has such characters", str(path)) from error
    try:
        _size(os.fstat(handle), path)
        return open(handle, "rb", buffering=0)
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Place, limit: int) -> bytes:
    """The whole content. Raises OSError also where there is more than `limit` bytes of it."""
    if not isinstance(path, Path):
        source = path.source()
        _refuse_larger(source.size, limit, path)
        return source.content()
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        _refuse_larger(size, limit, path)
        return _read(file, size)


def read_text(path: Place, limit: int = MAX_TEXT) -> str:
    """The content as UTF-8. Raises OSError, and UnicodeDecodeError where it is another encoding."""
    return read_regular(path, limit).decode("utf-8")


def is_regular(path: Place) -> bool:
    """Whether a regular file stands there; False also for paths that no file system takes."""
    if not isinstance(path, Path):
        return path.is_file()
    try:
        regular_size(path)
    except OSError:
        return False
    return True


def _refuse_larger(size: int, limit: int, path: Place) -> None:
    if size > limit:
        raise OSError(errno.EFBIG, f"{size:,} bytes, more than the {limit:,} that are read", str(path))


def _facts(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except ValueError as error:
        raise OSError(errno.EINVAL, "no path has such characters", str(path)) from error


def _size(facts: os.stat_result, path: Path) -> int:
    if not stat.S_ISREG(facts.st_mode):
        raise NotRegularError(errno.EINVAL, f"{_kind(facts.st_mode)}, not a regular file", str(path))
    return facts.st_size


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "a special file")


def _read(file: BinaryIO, size: int) -> bytes:
    pieces = []
    while size > 0 and (piece := file.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
