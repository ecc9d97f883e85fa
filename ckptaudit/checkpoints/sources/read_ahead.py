"""Tensors that are wanted soon, asked for together: neighbours in a file by one request, several at a time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ckptaudit.checkpoints.tensors import TensorHandle
from ckptaudit.foreign_files.places import RemotePlace

AT_ONCE = 64 * 2**20
"""Bytes that are on their way at the most, beside what is being read."""


def read_ahead(handles: Iterable[TensorHandle]) -> None:
    """Begin to read what lies in remote files, up to 64 MiB; handles of files here are passed over.

    What goes wrong is raised where the tensor is read.
    """
    wanted: dict[RemotePlace, list[tuple[int, int]]] = {}
    left = AT_ONCE
    for handle in handles:
        if isinstance(handle.file, Path) or handle.extent is None:
            continue
        left -= handle.extent[1]
        if left < 0:
            break
        wanted.setdefault(handle.file, []).append(handle.extent)
    for file, ranges in wanted.items():
        file.source().read_ahead(ranges)
