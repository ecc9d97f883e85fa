"""A short name for a checkpoint's contents, cheap enough to take at every audit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

from ckptaudit.checkpoints.json_files import reason
from ckptaudit.checkpoints.tensors import Checkpoint
from ckptaudit.errors import CheckpointError, printable
from ckptaudit.foreign_files import open_regular
from ckptaudit.foreign_files.places import Place, RemotePlace

BLOCK = 4096
BLOCKS = 256
ENDS = 65536

READERS = 8
AT_ONCE = 32
"""Files of which samples are held at a time, some 1.2 MB each."""


def fingerprint(checkpoint: Checkpoint) -> str:
    """32 hexadecimal digits that tell one checkpoint's files from another's.

    BLAKE2b over names, types and shapes of all tensors, and of each weight file its size, its first and
    last 64 KiB and 256 blocks of 4 KiB spread evenly over it. Sampled: it catches a mix-up of two
    checkpoints, which differ nearly everywhere, and is no proof against a change made on purpose. The
    same weights in other files have another fingerprint. Of an object of a remote store it takes name, size and
    ETag or version in place of the samples, and so differs from that of a copy here. Raises CheckpointError if a
    file is gone.
    """
    digest = blake2b(digest_size=16)
    for name, handle in checkpoint.tensors.items():
        digest.update(repr((name, handle.dtype, handle.shape)).encode())
    if checkpoint.patched_from is not None:
        digest.update(fingerprint(checkpoint.patched_from).encode())
    files = {handle.file for handle in checkpoint.tensors.values()} | {p.path for p in checkpoint.patches}
    for taken in _taken_of(sorted(files, key=str)):
        digest.update(taken)
    return digest.hexdigest()


def _taken_of(files: Sequence[Place]) -> Iterator[bytes]:
    """What is taken of each file, in order."""
    # Several at once: on a shared disk each of the many small reads waits for its answer.
    with ThreadPoolExecutor(READERS) as readers:
        for at in range(0, len(files), AT_ONCE):
            yield from readers.map(_taken, files[at : at + AT_ONCE])


def _taken(file: Place) -> bytes:
    return b"".join(_samples(file) if isinstance(file, Path) else _identity(file))


def _identity(file: RemotePlace) -> Iterator[bytes]:
    try:
        yield repr((file.name, file.source().stamp)).encode()
    except OSError as error:
        raise CheckpointError(f"{printable(file)}: cannot be read any more ({reason(error)}).") from error


def _samples(path: Path) -> Iterator[bytes]:
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            yield size.to_bytes(8, "little")
            for start, length in ((0, ENDS), (max(0, size - ENDS), ENDS), *_spread(size)):
                file.seek(start)
                yield file.read(length)
    except OSError as error:
        raise CheckpointError(f"{printable(path)}: cannot be read any more ({reason(error)}).") from error


def _spread(size: int) -> Iterator[tuple[int, int]]:
    if size > 2 * ENDS:
        yield from ((size * i // BLOCKS, BLOCK) for i in range(BLOCKS))
