"""What lies in a folder: names and kinds, nothing opened."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from ckptaudit.artifact.known_names import KNOWN
from ckptaudit.checkpoints.json_files import reason
from ckptaudit.errors import CheckpointError, printable
from ckptaudit.foreign_files.places import Place, RemotePlace

MAX_ENTRIES = 100_000

Kind = Literal["file", "folder", "other"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder: a file with its size in bytes, a folder, or what is neither (pipe, broken link)."""

    kind: Kind
    size: int = 0


def entries(folder: Place | None) -> Mapping[str, Entry]:
    """The entries of a folder by name, sorted. Raises CheckpointError if it cannot be listed or never ends."""
    found: dict[str, Entry] = {}
    if folder is not None and not isinstance(folder, Path):
        return MappingProxyType(remote_entries(folder))
    try:
        for child in folder.iterdir() if folder is not None else ():
            found[child.name] = _entry(child)
            if len(found) > MAX_ENTRIES:
                raise CheckpointError(
                    f"{printable(folder)}: more than {MAX_ENTRIES:,} entries; pass the folder of one checkpoint."
                )
    except OSError as error:
        raise CheckpointError(f"{printable(folder)}: cannot be listed ({reason(error)}).") from error
    return MappingProxyType(dict(sorted(found.items())))


def remote_entries(folder: RemotePlace) -> dict[str, Entry]:
    """The same of a folder in a store: what it lists; where it lists nothing, the known names that it has."""
    if folder.lists_nothing:
        folder.open_all(KNOWN)
    found = {child.name: child for child in folder.iterdir()}
    kinds = {
        name: Entry("file", child.size()) if child.is_file() else Entry("folder") for name, child in found.items()
    }
    return dict(sorted(kinds.items()))


def _entry(path: Path) -> Entry:
    try:
        facts = path.stat()
    except OSError:
        return Entry("other")
    if stat.S_ISREG(facts.st_mode):
        return Entry("file", facts.st_size)
    return Entry("folder" if stat.S_ISDIR(facts.st_mode) else "other")
