"""One entry of the cache: tensors as a safetensors file that is sealed by a digest over every byte."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from blake3 import blake3

from ckptaudit.foreign_files import open_regular, read_regular
from ckptaudit.foreign_files.places import Place

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER = 2**20
"""Bytes of the longest header that an entry can have: its tensors are few."""

BLANK = b"0" * 64
SEAL = b'"checksum":"'


def entry_key(stored: Tensor, *, definition: str) -> str:
    """Digest of a tensor's bytes, dtype and shape, and of `definition`: what is kept of it, in which version.

    BLAKE3, 64 hexadecimal digits. Two tensors share a key only if they are bitwise the same.
    """
    import torch

    flat = stored.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest = _begun(repr((definition, str(stored.dtype), tuple(stored.shape))).encode())
    digest.update(flat.numpy().data)
    return digest.hexdigest()


def sealed(tensors: Mapping[str, Tensor], key: str) -> tuple[memoryview | bytes, ...]:
    """The entry's bytes, with their digest in the header's own metadata: any safetensors reader opens it."""
    from safetensors.torch import save

    raw = save({name: _own(tensor) for name, tensor in tensors.items()}, {"checksum": BLANK.decode()})
    at = raw.index(SEAL + BLANK) + len(SEAL)
    return memoryview(raw)[:at], _digest(raw, at, key), memoryview(raw)[at + len(BLANK) :]


def entry_content(path: Place, limit: int) -> bytes:
    """The bytes of an entry; none where its size is not what its header says, or does not fit into memory.

    What a file claims to the file system is not reserved before that is known: a sparse file claims gigabytes.
    Raises OSError where nothing can be read.
    """
    if isinstance(path, Path):
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size != _stated_size(file):
                return b""
    try:
        return read_regular(path, limit)
    except MemoryError:
        return b""


def _stated_size(file: BinaryIO) -> int:
    """Bytes of the whole entry by its header; 0 where that is none."""
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER:
        return 0
    try:
        header = json.loads(file.read(length))
        ends = [part["data_offsets"][1] for name, part in header.items() if name != "__metadata__"]
        return 8 + length + int(max(ends, default=0))
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        return 0


def unsealed(raw: bytes, key: str) -> dict[str, Tensor] | None:
    from safetensors import SafetensorError
    from safetensors.torch import load

    at = raw.find(SEAL, 0, 8 + int.from_bytes(raw[:8], "little")) + len(SEAL)
    if at < len(SEAL) or raw[at : at + len(BLANK)] != _digest(raw, at, key):
        return None
    try:
        return load(raw)
    except (SafetensorError, KeyError, ValueError, RuntimeError):
        return None  # sealed by a later release, with a dtype that this one does not know


def _digest(raw: bytes, at: int, key: str) -> bytes:
    """Digest of an entry, its own place left blank; with the key, so that no entry answers for another."""
    digest = _begun(key.encode())
    for part in (memoryview(raw)[:at], BLANK, memoryview(raw)[at + len(BLANK) :]):
        digest.update(part)
    return digest.hexdigest().encode()


def _begun(first: bytes) -> blake3:
    """A digest that takes no more threads than the caller may."""
    import torch

    return blake3(first, max_threads=torch.get_num_threads())


def _own(tensor: Tensor) -> Tensor:
    """The tensor on the CPU in memory of its own: the format keeps no strides and no shared storage."""
    here = tensor.detach().cpu()
    alone = here.untyped_storage().nbytes() == here.nbytes
    return here.contiguous() if alone else here.clone().contiguous()
