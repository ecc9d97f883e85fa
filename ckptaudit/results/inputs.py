"""What was judged beside the weights, and by what, by the digests of its files: logs, probes, checks, settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import msgspec

from ckptaudit.checkpoints.digests import ONE_FILE, FileDigest, file_digests, listed_digests, root_digest
from ckptaudit.errors import CheckpointError, parameter, printable
from ckptaudit.judging.profiles import bundled_checks
from ckptaudit.judging.settings_file import read_settings
from ckptaudit.options import AUXILIARY
from ckptaudit.rollouts.run_log import files_of_curves, files_of_log

InputName = Literal[
    "rollouts", "scalars", "probes", "verdicts", "gradients", "retain_gradients", "fisher", "aligned", "reference",
    "adapter_init", "adapter", "parents", "weak", "base_part", "tuned_part", "against", "config", "checks",
    "bundled",
]  # fmt: skip
"""The options that give an input; `bundled` are the check files that came with the package.

A part is what a side like WEIGHTS+ADAPTER was joined from, beside the checkpoint whose digest the side has.
"""

PARTS = {"base_part": "base", "tuned_part": "tuned"}
"""The options that give parts."""

SHOWN = 3


class InputRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An input beside the weights: its path, SHA-256 of each file that was read, and one digest of all of these.

    `tuned` is the run that it says something of, and empty where it is every run. Of a checkpoint in a store there
    is no digest, and its sampled `fingerprint` stands for it.
    """

    name: InputName
    path: str
    digest: str
    files: tuple[FileDigest, ...]
    tuned: str = ""
    fingerprint: str = ""


@cache
def package() -> str:
    """What bundled checks come with."""
    return f"ckptaudit {version('ckptaudit')}"


def input_record(name: InputName, path: str, tuned: str = "") -> InputRecord:
    """An input as it is now. Raises CkptAuditError where it is gone, of no known kind, or cannot be read."""
    return record_of(name, path, input_digests(name, path), tuned)


def record_of(name: InputName, path: str, files: Sequence[FileDigest], tuned: str = "") -> InputRecord:
    """The record of an input whose digests are known."""
    return InputRecord(name=name, path=path, digest=root_digest(files), files=tuple(files), tuned=tuned)


def input_digests(name: InputName, path: str) -> tuple[FileDigest, ...]:
    """Digests of the files that are read of an input, and of no other that may lie beside them.

    Of a checkpoint these are all files of its folder, as of the tuned one.
    """
    try:
        return _DIGESTS.get(name, _own_file)(path)
    except CheckpointError as error:
        given = parameter(PARTS.get(name, name))
        raise CheckpointError(f"{given} {printable(path)}: {error.sentence}") from error


def not_here(record: InputRecord, path: str) -> str:
    """Why an input cannot be looked at where it is said to lie, in words; "" where it can."""
    if not record.files:
        return f"{path} is known by its sampled fingerprint alone"
    if record.name == "bundled":
        return "" if path == package() else f"came with {path}, and this is {package()}"
    return "" if Path(path).exists() else f"{path} is not here"


def changed_input(record: InputRecord, path: str) -> str:
    """How an input that lies at a path differs from what was judged, in words; "" if it does not."""
    now = input_digests(record.name, path)
    if record.name == "bundled":  # of which an audit applies some
        judged = {file.name for file in record.files}
        now = tuple(file for file in now if file.name in judged)
    return other_files(record.files, now)


def other_files(before: Sequence[FileDigest], after: Sequence[FileDigest]) -> str:
    """What differs between the files of an input, in words; "" if nothing does."""
    was, now = ({file.name: file.sha256 for file in files} for files in (before, after))
    if [*was] == [*now] == [ONE_FILE]:
        return "" if was == now else "its content is another"
    return difference(was, now)


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """What differs between two lists of files, in words; "" if nothing does."""
    found = {
        "changed": [name for name in before if name in after and before[name] != after[name]],
        "missing": [name for name in before if name not in after],
        "new": [name for name in after if name not in before],
    }
    return "; ".join(f"{what} {_few(names)}" for what, names in found.items() if names)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(printable, names[:SHOWN])) + more


def bundled_digests(_: str = "") -> tuple[FileDigest, ...]:
    """Those of the check files and profiles that this package brought."""
    return listed_digests(bundled_checks(), sorted(bundled_checks().glob("*.toml")))


def _own_file(path: str) -> tuple[FileDigest, ...]:
    return listed_digests(Path(path), [Path(path)])


def _settings(path: str) -> tuple[FileDigest, ...]:
    file = read_settings(Path(path))
    return (FileDigest(file.part or ONE_FILE, file.sha256),)


def _checkpoint(path: str) -> tuple[FileDigest, ...]:
    return file_digests(Path(path))


_DIGESTS: Mapping[str, Callable[[str], tuple[FileDigest, ...]]] = {
    **{kind.name: _checkpoint for kind in AUXILIARY.values() if kind.layout not in ("file", "log")},
    **dict.fromkeys(PARTS, _checkpoint),
    "rollouts": lambda path: listed_digests(Path(path), files_of_log(path)),
    "scalars": lambda path: listed_digests(Path(path), files_of_curves(path)),
    "config": _settings,
    "bundled": bundled_digests,
}
"""How the files of an input are found; all others are one file."""
