"""What `torch.save` wrote, at a byte range of a file: the object, with each tensor as a place in that file.

Both layouts are read: the zip archive (PyTorch 1.6 and later) and the older row of pickles. Nothing but
the pickle is read here, and the pickle is read as data (see `pickles`).
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from typing import IO, Any, BinaryIO, cast

from ckptaudit.checkpoints.json_files import clipped, file_size, reason
from ckptaudit.checkpoints.storage import itemsize
from ckptaudit.checkpoints.torch_files.opcodes import MAX_PICKLE
from ckptaudit.checkpoints.torch_files.records import ALLOWED, Archive, damaged, storage_of
from ckptaudit.checkpoints.torch_files.unpickle import Call, External, pickle_of, read_pickle
from ckptaudit.errors import CheckpointError, printable
from ckptaudit.foreign_files import open_regular, stamp_of
from ckptaudit.foreign_files.places import Place

MAX_DIRECTORY = 32 * 2**20  # some 500,000 storages
_ZIP_MAGIC = b"PK\3\4"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def open_archive(path: Place, start: int = 0, length: int | None = None) -> Archive:
    """Read the pickle of what `torch.save` wrote to a file, or to a byte range of it."""
    end = file_size(path) if length is None else start + length
    try:
        with open_regular(path) as raw:
            file = cast(IO[bytes], io.BufferedReader(_Section(raw, start, end)))
            if zipfile.is_zipfile(file):
                return _zip_archive(path, file, start)
            file.seek(0)
            if file.read(4) == _ZIP_MAGIC:
                raise damaged(path, "a zip archive whose end is missing")
            return _legacy(path, file, start, end)
    except OSError as error:
        raise CheckpointError(f"{printable(path)}: cannot be read ({reason(error)}).") from error
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        struct.error,
        ValueError,
        OverflowError,
        KeyError,
    ) as error:
        raise damaged(path, clipped(error)) from error


class _Section(io.RawIOBase):
    """A byte range of an open file, as a file of its own."""

    def __init__(self, raw: BinaryIO, start: int, end: int) -> None:
        self._raw, self._start, self._end, self._at = raw, start, end, start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: self._start, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence]
        if origin + offset < self._start:
            raise OSError("an offset lies before the archive")
        self._at = origin + offset
        return self._at - self._start

    def readinto(self, buffer: Any) -> int:
        room = max(0, min(len(buffer), self._end - self._at))
        self._raw.seek(self._at)
        count = cast(io.FileIO, self._raw).readinto(memoryview(buffer)[:room]) or 0
        self._at += count
        return count


def _zip_archive(path: Place, file: IO[bytes], start: int) -> Archive:
    _refuse_huge_directory(path, file)
    with zipfile.ZipFile(file) as archive:
        entries = _entries(path, archive)
        prefix = _prefix(path, entries)
        if f"{prefix}constants.pkl" in entries:
            raise CheckpointError(
                f"{printable(path)}: a TorchScript program, not weights; save its state dict instead."
            )
        order = entries.get(f"{prefix}byteorder")
        if order is not None and _record(path, file, order) != b"little":
            raise CheckpointError(
                f"{printable(path)}: saved on a big-endian machine; save it again as safetensors."
            )
        contents = pickle_of(_record(path, file, entries[f"{prefix}data.pkl"]), path, ALLOWED)
        places = {name: (_data_start(path, file, entry), entry.file_size) for name, entry in entries.items()}

    def storage(key: str) -> tuple[int, int]:
        first, length = places[f"{prefix}data/{key}"]
        return start + first, length

    return Archive(path, contents, storage, stamp_of(path))


def _refuse_huge_directory(path: Place, file: IO[bytes]) -> None:
    # zipfile reads the directory in one piece, of whatever size the end record claims.
    record = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if record is None or record[5] > MAX_DIRECTORY:
        raise damaged(path, "its zip directory is unreadable or larger than is read")


def _entries(path: Place, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) != len(archive.infolist()):
        raise damaged(path, "it holds two records of the same name")
    packed = next((e for e in entries.values() if e.compress_type != zipfile.ZIP_STORED or e.flag_bits & 1), None)
    if packed is not None:
        raise damaged(path, f"record {clipped(packed.filename)} is compressed or encrypted")
    return entries


def _prefix(path: Place, entries: dict[str, zipfile.ZipInfo]) -> str:
    roots = [name.removesuffix("data.pkl") for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if len(roots) != 1:
        raise CheckpointError(f"{printable(path)}: a zip file, but none that torch.save wrote; pass the weights.")
    return roots[0]


def _record(path: Place, file: IO[bytes], entry: zipfile.ZipInfo) -> bytes:
    start = _data_start(path, file, entry)
    if entry.file_size > min(MAX_PICKLE, file.seek(0, io.SEEK_END) - start):
        raise damaged(path, f"record {clipped(entry.filename)} ends beyond the file, or is larger than is read")
    file.seek(start)
    return file.read(entry.file_size)


def _data_start(path: Place, file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    file.seek(entry.header_offset)
    header = file.read(30)
    if header[:4] != _ZIP_MAGIC:
        raise damaged(path, f"record {clipped(entry.filename)} is not where the directory says")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return int(entry.header_offset + 30 + name_length + extra_length)


def _legacy(path: Place, file: IO[bytes], start: int, end: int) -> Archive:
    file.seek(0)
    if read_pickle(file, path, ()) != _LEGACY_MAGIC:
        raise CheckpointError(f"{printable(path)}: not a file that torch.save wrote; pass the file of the weights.")
    read_pickle(file, path, ())  # the protocol version
    read_pickle(file, path, ())  # sizes of integers on the machine that wrote it
    contents = read_pickle(file, path, ALLOWED)
    keys = read_pickle(file, path, ())
    places = dict(_legacy_storages(path, file, keys, _widths(contents), start, end))
    return Archive(path, contents, lambda key: places[key], stamp_of(path))


def _legacy_storages(
    path: Place, file: IO[bytes], keys: Any, widths: dict[str, int], start: int, end: int
) -> Iterator[tuple[str, tuple[int, int]]]:
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise damaged(path, "its list of storages is missing")
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        length = count * widths[key]
        first = file.tell()
        if count < 0 or start + first + length > end:
            raise damaged(path, f"storage {clipped(key)} ends beyond the file")
        yield key, (start + first, length)
        file.seek(first + length)


def _widths(contents: Any) -> dict[str, int]:
    """Bytes per entry of every storage that the object refers to."""
    widths: dict[str, int] = {}
    pending, seen = [contents], set[int]()
    while pending:
        value = pending.pop()
        if isinstance(value, External):
            key, dtype = storage_of(value)
            widths[key] = itemsize(dtype)
        elif isinstance(value, dict | list | tuple | Call) and id(value) not in seen:
            seen.add(id(value))
            pending.extend(_parts(value))
    return widths


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Call):
        return [*value.args, value.state, *value.items.values()]
    return list(value.values()) if isinstance(value, dict) else list(value)
