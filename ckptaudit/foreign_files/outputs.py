"""Files that a command is asked to write: refused early where none can be, or where what is read would be lost."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path
from secrets import token_hex

from ckptaudit.errors import ReportError, printable
from ckptaudit.foreign_files import NotRegularError, open_regular, regular_size

MOST_FILES = 10_000
"""Files of a folder that are looked at for another name of one of them."""

ENDS = 64 * 2**10
"""Bytes at either end of a file that tell whether it is a report."""

_REPORT = re.compile(
    rb"""
      \s*\{\s*"schema":\s*"ckptaudit(\.\w+)?/                            # result, plan
    | \s*\{\s*"schemaVersion":\s*1,\s*"label":\s*"checkpoint\ audit"     # badge
    | \s*\{\s*"\$schema":.{,400}"driver":\s*\{\s*"name":\s*"ckptaudit"   # SARIF
    | \s*\{\s*"payload":\s*"eyJfdHlwZSI6I                                # attestation: {"_type":" in base 64
    | \s*\{\s*"mediaType":\s*"application/vnd\.dev\.sigstore\.bundle     # signature of a model
    | \s*(<\?xml[^>]*>\s*)?<testsuites?[\s>]                             # JUnit
    | <\?xml[^>]*>\Z                                                     # JUnit that broke off
    | <!doctype\ html>.{,300}"Content-Security-Policy"                   # page
    | <svg\ .{,200}aria-label="checkpoint\ audit                         # badge
    | (<\?xml|\x89PNG).{,1000}Matplotlib\ v                              # plot
    | \#\#\ Checkpoint\ audit                                            # Markdown
    | \#\ Limits\ that\ `ckptaudit\ calibrate`                           # configuration
    | .{8}\{"__metadata__":\{"samples":                                  # gradients, Fisher information
    """,
    re.DOTALL | re.VERBOSE,
)
_TABLE = re.compile(rb"ckptaudit\.schema.{,8}(ckptaudit/|probe-rows/)|ckptaudit\.part", re.DOTALL)
"""In the footer of a Parquet file. A table of rollouts is a log, and none of these."""


@dataclass(frozen=True, slots=True)
class Output:
    """A file to write, and the option that names it.

    `may_be_folder`: a folder of that name takes several files. `in_place`: the file is opened where it stands, so
    that a pipe or a device takes it too, and not replaced by another.
    """

    path: Path
    option: str = ""
    may_be_folder: bool = False
    in_place: bool = False

    @property
    def said(self) -> str:
        """Option and path, as they were given."""
        return f"{self.option} {printable(self.path)}".strip()


def refuse_unwritable(outputs: Sequence[Output]) -> None:
    """Raise ReportError where a file cannot be written, or where two of them are one. Leaves nothing behind."""
    for output in outputs:
        if why := _obstacle(output):
            raise ReportError(f"{output.said}: no file can be written there ({why}); name another.")
    for one, other in combinations(outputs, 2):
        if _are_one(one, other):
            raise ReportError(f"{one.said} and {other.said}: two outputs cannot be one file; name another.")


def refuse_what_is_read(outputs: Iterable[Output], read: Iterable[Path]) -> None:
    """Raise ReportError where a file to write is one that is read, under whatever name, and would be lost.

    `read` are files and folders. In a folder a new file may be written, and an earlier report replaced; any other
    file of it belongs to what is read.
    """
    read = list(read)
    for output in outputs:
        for path in read if _is_there(output.path) and not output.path.is_dir() else ():
            if _is_lost(output.path, path):
                part = f" as part of {printable(path)}" if path.is_dir() else ""
                raise ReportError(f"{output.said}: is read here{part} and would be overwritten; name another.")


def refuse_special(path: Path) -> None:
    """Raise NotRegularError for a pipe or a device, which a file would take the place of; also for their links."""
    try:
        regular_size(path)
        # As /dev/stdout: a name of what the process has open, which may well be a file.
        if path.is_symlink() and path.readlink().is_relative_to("/proc"):
            raise NotRegularError(errno.EINVAL, "a link to an open file", str(path))
    except NotRegularError:
        raise
    except OSError:
        return  # whoever writes there is told more


def _obstacle(output: Output) -> str:
    """Why no file can be written there; empty where one can."""
    path = output.path
    try:
        if path.is_dir():
            if not output.may_be_folder:
                return "a directory, not a regular file"
        elif not output.in_place:
            refuse_special(path)
        elif _found(path):
            return "" if os.access(path, os.W_OK) else os.strerror(errno.EACCES)
        _try(path)
    except OSError as error:
        return printable(error.strerror or error)
    except ValueError:
        return "no path has such characters"
    return ""


def _try(path: Path) -> None:
    """Make a file in the folder, or in the nearest one that is there, and take it away. Raises OSError."""
    folder = path if path.is_dir() else path.absolute().parent
    names = [path.name]
    while not folder.exists() and not folder.is_symlink():
        names.append(folder.name)
        folder = folder.parent
    for name in names:
        # Asked by itself, as below a folder that is missing no name is looked at.
        _found(folder / name, follow_symlinks=False)
    part = folder / f".ckptaudit-{token_hex(8)}.part"
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    part.unlink()


def _found(path: Path, *, follow_symlinks: bool = True) -> bool:
    """Whether something is there. Raises OSError where nothing can be."""
    try:
        path.stat(follow_symlinks=follow_symlinks)
    except FileNotFoundError:
        return False
    return True


def _is_there(path: Path) -> bool:
    try:
        return _found(path)
    except (OSError, ValueError):
        return False


def _is_lost(output: Path, path: Path) -> bool:
    """Whether a file that is there is this one, or one of this folder and no report."""
    if not _is_there(path):
        return False
    try:
        if path.is_dir():
            return _is_within(output, path) and not _is_report(output)
        return output.samefile(path)
    except FileNotFoundError:  # gone meanwhile
        return False


def _are_one(one: Output, other: Output) -> bool:
    if one.path.is_dir() or other.path.is_dir():
        return False
    if one.path.exists() and other.path.exists() and one.path.samefile(other.path):
        return True
    a, b = _place(one), _place(other)
    below = (a in b.parents and not one.may_be_folder) or (b in a.parents and not other.may_be_folder)
    return a == b or below


def _place(output: Output) -> Path:
    """Where the file will lie: a link is followed where it is opened, and replaced otherwise."""
    path = output.path
    return path.resolve() if output.in_place else path.parent.resolve() / path.name


def _is_within(path: Path, folder: Path) -> bool:
    """Whether a file lies in a folder, also by way of links, or by another name of the same file."""
    here = folder.resolve()
    if path.resolve().is_relative_to(here) or (path.parent.resolve() / path.name).is_relative_to(here):
        return True
    return any(path.samefile(file) for file in islice(_files(folder), MOST_FILES))


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path


def _is_report(path: Path) -> bool:
    """Whether a file is an earlier report, by how it begins and ends, or empty."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(ENDS)
            file.seek(max(size - ENDS, 0))
            tail = file.read(ENDS)
    except OSError:
        return False
    if head.startswith(b"PAR1"):
        return _TABLE.search(tail) is not None
    return not size or _REPORT.match(head) is not None
