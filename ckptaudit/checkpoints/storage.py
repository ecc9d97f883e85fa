"""Bytes of a file to a tensor: the only place where the contents of a weight are read.

Plain reads, not a memory map: a mapped file that shrinks kills the process with SIGBUS, while a short
read is an answer. Memory stays within the tensor asked for, which the file's size bounds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy
import torch

from ckptaudit.checkpoints.json_files import clipped, file_size, reason
from ckptaudit.checkpoints.tensors import TensorHandle
from ckptaudit.errors import CheckpointError, printable
from ckptaudit.foreign_files import open_regular, stamp
from ckptaudit.foreign_files.places import Place, Stamp

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {
    name: getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
        "uint16", "uint32", "uint64", "complex64", "complex128",
        "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
    )
    if hasattr(torch, name)
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: `count` values from byte `start` of a file, seen through shape and stride."""

    file: Place
    start: int
    count: int
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None = None
    stamp: Stamp | None = field(default=None, compare=False)
    """Size and time of the file when it was opened; another file in its place is not read."""

    def load(self) -> Tensor:
        """The tensor on the CPU. Raises CheckpointError if the file changed or no longer holds it."""
        if not self.count:
            return torch.empty(self.shape, dtype=DTYPES[self.dtype])
        length = self.count * itemsize(self.dtype)
        flat = read_bytes(self.file, self.start, length, self.stamp).view(DTYPES[self.dtype])
        if self.stride is None:
            return flat.view(self.shape)
        return flat.as_strided(self.shape, self.stride)

    def handle(self, name: str) -> TensorHandle:
        """The tensor as every reader returns it."""
        extent = (self.start, self.count * itemsize(self.dtype))
        return TensorHandle(
            name=name, shape=self.shape, dtype=self.dtype, file=self.file, load=self.load, extent=extent
        )


def itemsize(dtype: str) -> int:
    """Bytes per entry."""
    return int(DTYPES[dtype].itemsize)


def read_bytes(path: Place, start: int, length: int, expected: Stamp | None = None) -> Tensor:
    """`length` bytes from `start` as a uint8 tensor. Nothing is allocated for bytes that the file lacks.

    Raises CheckpointError also where the file has not the `expected` size and time.
    """
    try:
        if start < 0 or length < 0 or start + length > file_size(path):
            raise _cut_short(path, start, length)
        buffer = numpy.empty(length, dtype=numpy.uint8)
        if not isinstance(path, Path):
            # A source reads the object that was opened, and raises by itself where it changed.
            path.source().read_range(start, memoryview(buffer.data))
            return torch.from_numpy(buffer)
        with open_regular(path) as file:
            if expected not in (None, stamp(os.fstat(file.fileno()))):
                raise CheckpointError(
                    f"{printable(path)}: the file changed while it was audited; wait until it is complete, and "
                    "audit again."
                )
            file.seek(start)
            _fill(memoryview(buffer.data), cast(FileIO, file).readinto, path, start)
    except OSError as error:
        raise CheckpointError(f"{printable(path)}: cannot be read ({reason(error)}).") from error
    return torch.from_numpy(buffer)


MAX_AXES = 64
MAX_INTEGER = 2**63


def checked_sizes(path: Place, name: str, sizes: object) -> tuple[int, ...]:
    """Sizes, strides or offsets: a short list of whole numbers from 0 that fit 63 bits. Raises CheckpointError."""
    # The length first: one long list may stand in for a thousand tensors, and must not be copied for each.
    if not isinstance(sizes, list | tuple) or len(sizes) > MAX_AXES or not all(map(is_size, sizes)):
        raise CheckpointError(f"{printable(path)}: tensor {clipped(name)} has no valid shape; the file is damaged.")
    return tuple(sizes)


def is_size(value: object) -> bool:
    """Whether a number from a file is a whole one that torch takes: no truth value, no float, not negative."""
    return type(value) is int and 0 <= value < MAX_INTEGER


def checked_shape(path: Place, name: str, shape: object) -> tuple[int, ...]:
    """The shape, if it is a short list of sizes whose product a file could hold."""
    sizes = checked_sizes(path, name, shape)
    # Of an empty tensor too: torch multiplies the other sizes to get at its strides.
    entries = 1
    for size in sizes:
        entries *= max(size, 1)
        if entries >= MAX_INTEGER:
            raise CheckpointError(
                f"{printable(path)}: tensor {clipped(name)} claims a shape of 2**63 entries or more; the file is "
                "damaged."
            )
    return sizes


def _fill(view: memoryview, readinto, path: Place, start: int) -> None:  # type: ignore[no-untyped-def]
    done = 0
    while done < len(view):
        count = readinto(view[done : done + 2**30])
        if not count:
            raise _cut_short(path, start, len(view))
        done += count


def _cut_short(path: Place, start: int, length: int) -> CheckpointError:
    return CheckpointError(
        f"{printable(path)}: {length:,} bytes at {start:,} lie outside the file, which changed or was cut "
        "short; "
        "save or download it again."
    )
