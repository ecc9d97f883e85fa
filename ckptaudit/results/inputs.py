"""What was judged beside the weights, by the digests of its files: logs of rollouts, curves, probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from ckptaudit.checkpoints.digests import FileDigest, listed_digests, root_digest
from ckptaudit.errors import CheckpointError, parameter, printable
from ckptaudit.rollouts.run_log import files_of_curves, files_of_log

InputName = Literal["rollouts", "scalars", "probes"]


class InputRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An input beside the weights: its path, SHA-256 of each file that was read, and one digest of all of these.

    `tuned` is the run that it says something of, and empty where it is every run.
    """

    name: InputName
    path: str
    digest: str
    files: tuple[FileDigest, ...]
    tuned: str = ""


def input_record(name: InputName, path: str, tuned: str = "") -> InputRecord:
    """An input as it is now. Raises CkptAuditError where it is gone, of no known kind, or cannot be read."""
    files = input_digests(name, path)
    return InputRecord(name=name, path=path, digest=root_digest(files), files=files, tuned=tuned)


def input_digests(name: InputName, path: str) -> tuple[FileDigest, ...]:
    """Digests of the files that are read of an input, and of no other that may lie beside them."""
    try:
        return listed_digests(Path(path), _FILES[name](path))
    except CheckpointError as error:
        raise CheckpointError(f"{parameter(name)} {printable(path)}: {error.sentence}") from error


_FILES: Mapping[InputName, Callable[[str], Sequence[Path]]] = {
    "rollouts": files_of_log,
    "scalars": files_of_curves,
    "probes": lambda path: [Path(path)],
}
