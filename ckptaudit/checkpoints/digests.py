"""SHA-256 of every byte of a checkpoint's files: slower than a fingerprint, and a proof."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path, PurePosixPath

import msgspec

from ckptaudit.checkpoints.json_files import reason
from ckptaudit.errors import CheckpointError, printable
from ckptaudit.foreign_files import open_regular

IGNORED = (".git", ".gitattributes", ".github", ".gitignore", "model.sig", "audit.intoto.json")
"""Names at the top of a folder that are no part of a model: what OpenSSF model signing leaves out; signatures."""

MOST_FILES = 100_000
BLOCK = 4 * 2**20
WORKERS = 8
ONE_FILE = "."
"""How the file is named where a checkpoint is one file and no folder."""


class FileDigest(msgspec.Struct, frozen=True):
    """A file by its path within the checkpoint, with `/`, and the hexadecimal SHA-256 of its content."""

    name: str
    sha256: str


def file_digests(path: Path, ignored: Collection[str] = ()) -> tuple[FileDigest, ...]:
    """Digests of a file, or of all files below a folder, in the order in which `root_digest` takes them.

    Read in blocks, several files at a time. `ignored` are further paths within the folder that do not belong to
    the model, such as a signature. A link to a file counts as the file. Raises CheckpointError for what cannot be
    read, for a link to a folder, for a file that is read together with others, such as an index of shards, and for
    anything that is neither file nor folder.
    """
    _refuse_part(path)
    try:
        names = [ONE_FILE] if not path.is_dir() else _ordered(_below(path, {*IGNORED, *ignored}))
        return _digests(path, names)
    except OSError as error:
        raise _no_digest(path, error) from error


def listed_digests(path: Path, files: Sequence[Path]) -> tuple[FileDigest, ...]:
    """The same of a file, or of the given files in a folder alone. Raises CheckpointError."""
    try:
        if not path.is_dir():
            return _digests(path, [ONE_FILE])
        return _digests(path, _ordered(file.relative_to(path).as_posix() for file in files))
    except OSError as error:
        raise _no_digest(path, error) from error


def _digests(path: Path, names: Sequence[str]) -> tuple[FileDigest, ...]:
    files = [path if name == ONE_FILE else path / name for name in names]
    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(_sha256, files))
    return tuple(FileDigest(name, digest) for name, digest in zip(names, digests, strict=True))


def _no_digest(path: Path, error: OSError) -> CheckpointError:
    place = printable(error.filename or path)
    return CheckpointError(f"{place}: no digest of it can be taken ({reason(error)}).")


def root_digest(files: Sequence[FileDigest]) -> str:
    """One digest of all: SHA-256 over the files' digests as bytes, one after the other.

    That is the subject of an OpenSSF model signature (model_signing/signature/v1.0). The names are not in it: two
    lists are of one content only if they are equal.
    """
    return sha256(b"".join(bytes.fromhex(file.sha256) for file in files)).hexdigest()


def _refuse_part(path: Path) -> None:
    if path.is_dir() or (not path.name.endswith(".index.json") and not path.name.startswith("adapter_model.")):
        return
    raise CheckpointError(
        f"{printable(path)}: is read together with files beside it, and a digest of it alone would not tell of "
        "these; give the folder."
    )


def _ordered(names: Iterable[str]) -> list[str]:
    found = sorted(names, key=lambda name: PurePosixPath(name).parts)
    if not found:
        raise CheckpointError("the folder holds no file, so there is nothing to take a digest of.")
    return found


def _below(folder: Path, ignored: Collection[str]) -> Iterator[str]:
    waiting, count = [folder], 0
    while waiting:
        for entry in sorted(waiting.pop().iterdir()):
            name = entry.relative_to(folder).as_posix()
            if name in ignored:
                continue
            if entry.is_dir():
                _refuse_link(entry)
                waiting.append(entry)
                continue
            count += 1
            if count > MOST_FILES:
                raise CheckpointError(
                    f"{printable(folder)}: more than {MOST_FILES:,} files; name the model's own folder."
                )
            yield name


def _refuse_link(entry: Path) -> None:
    if entry.is_symlink():
        raise CheckpointError(
            f"{printable(entry)}: a link to a folder, of which no digest is taken; put the files in its place."
        )


def _sha256(path: Path) -> str:
    digest = sha256()
    with open_regular(path) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
