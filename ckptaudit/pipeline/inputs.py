"""The digests of everything that an audit rests on beside the two sides of the pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from msgspec.structs import replace

from ckptaudit.artifact.places import CONFIG
from ckptaudit.checkpoints import Checkpoint, fingerprint
from ckptaudit.checkpoints.digests import ONE_FILE, FileDigest
from ckptaudit.foreign_files.places import Place
from ckptaudit.judging.effective_config import EffectiveConfig
from ckptaudit.judging.profiles import TABLE, bundled_checks
from ckptaudit.options import AuditOptions
from ckptaudit.pairing.auxiliary import Auxiliary, AuxiliaryInput
from ckptaudit.pairing.runs import Run
from ckptaudit.results.inputs import InputName, InputRecord, bundled_digests, input_record, package, record_of
from ckptaudit.rollouts.run_log import RunLog


def given_inputs(
    logs: Mapping[str, RunLog], auxiliary: Auxiliary, base: Checkpoint, against: str | None
) -> Iterator[InputRecord]:
    """What was given beside the pair, as it is now: logs by their run, all others by name.

    Raises CkptAuditError where something is gone or cannot be read.
    """
    for run, log in logs.items():
        yield input_record("rollouts", log.path, run)
    for run, log in logs.items():
        yield from (input_record("scalars", path, run) for path in log.scalars)
    for name, given in auxiliary.given.items():
        yield from _records(cast(InputName, name), given, base)
    if against is not None:
        yield input_record("against", against)


def joined_parts(base: Checkpoint, runs: Sequence[Run]) -> Iterator[InputRecord]:
    """What sides like WEIGHTS+ADAPTER were joined from, beside the checkpoint whose digest the side has."""
    for place, checkpoint in _pieces(base, None):
        if not _is_within(place, base.path):
            yield _of_checkpoint("base_part", place, checkpoint)
    for run in runs:
        for place, checkpoint in _pieces(run.pair.tuned, base):
            if not _is_within(place, run.path):
                yield replace(_of_checkpoint("tuned_part", place, checkpoint), tuned=run.path)


def _is_within(place: Place, path: str) -> bool:
    return str(place) == path or (isinstance(place, Path) and place.is_relative_to(path))


def read_places(
    logs: Mapping[str, RunLog], auxiliary: Auxiliary, base: Checkpoint, runs: Sequence[Run], options: AuditOptions
) -> Iterator[Path]:
    """The files and folders here that an audit reads, of which no output may take the place."""
    for log in logs.values():
        yield from map(Path, (log.path, *log.scalars))
    beside = [one for given in auxiliary.given.values() for one in (given.opened, *given.checkpoints)]
    for checkpoint in (base, *(run.pair.tuned for run in runs), *beside):
        if checkpoint is not None:
            yield from _places(checkpoint)
    yield from (Path(given.path) for given in auxiliary.given.values() if given.kind.layout == "file")
    yield from [] if options.against is None else [Path(options.against)]


def _places(checkpoint: Checkpoint) -> Iterator[Path]:
    yield from {handle.file for handle in checkpoint.tensors.values() if isinstance(handle.file, Path)}
    for place, _ in _pieces(checkpoint, None):
        if isinstance(place, Path):
            yield place
            if place.is_file() and (place.parent / CONFIG).is_file():  # whose documents are judged too
                yield place.parent


def policy_inputs(config: EffectiveConfig, profile: str) -> Iterator[InputRecord]:
    """The configuration and the check files, as they were when they were read; `profile` is empty without one."""
    file, path = config.config.file, config.config.path
    if file is not None:
        yield record_of("config", str(path), [FileDigest(file.part or ONE_FILE, file.sha256)])
    read = {path: digest for file in config.files for path, digest in file.read.items()}
    bundled = {path: digest for path, digest in read.items() if path.resolve().parent == bundled_checks().resolve()}
    for path, digest in read.items():
        if path not in bundled:
            yield record_of("checks", str(path), [FileDigest(ONE_FILE, digest)])
    if bundled:
        yield record_of("bundled", package(), list(_bundled(bundled, profile)))


def _bundled(read: Mapping[Path, str], profile: str) -> Iterator[FileDigest]:
    found = {path.name: digest for path, digest in read.items()}
    if profile:  # by which these files were chosen
        found |= {file.name: file.sha256 for file in bundled_digests() if file.name == TABLE}
    yield from (FileDigest(name, found[name]) for name in sorted(found))


def _records(name: InputName, given: AuxiliaryInput, base: Checkpoint) -> Iterator[InputRecord]:
    if given.kind.layout == "log":  # whose runs are known, and which there may be several of
        return
    if given.kind.layout == "file":
        yield input_record(name, given.path)
    opened = given.checkpoints or (() if given.opened is None else (given.opened,))
    for place, checkpoint in (piece for one in opened for piece in _pieces(one, base)):
        yield _of_checkpoint(name, place, checkpoint)


def _of_checkpoint(name: InputName, place: Place, checkpoint: Checkpoint) -> InputRecord:
    if isinstance(place, Path):
        return input_record(name, str(place))
    return InputRecord(name=name, path=str(place), digest="", files=(), fingerprint=fingerprint(checkpoint))


def _pieces(checkpoint: Checkpoint, base: Checkpoint | None) -> Iterator[tuple[Place, Checkpoint]]:
    """Where the parts of a checkpoint lie, each beside what was opened there; without the base, a side itself."""
    if checkpoint is base:
        return
    if checkpoint.merged_from is not None:
        for part in checkpoint.merged_from:
            yield from _pieces(part, base)
    elif checkpoint.patches:
        under = checkpoint.patched_from
        yield from () if under is None else _pieces(under, base)
        known = () if under is None else under.patches
        yield from ((patch.path, checkpoint) for patch in checkpoint.patches if patch not in known)
    elif checkpoint.place is not None:
        yield checkpoint.place, checkpoint
