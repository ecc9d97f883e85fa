"""From the JSON of an audit and the folder that it judged to a statement, if the folder is still the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ckptaudit.checkpoints import fingerprint, open_checkpoint
from ckptaudit.checkpoints.digests import FileDigest, file_digests
from ckptaudit.errors import AttestationError, parameter, printable
from ckptaudit.foreign_files import read_regular
from ckptaudit.foreign_files.outputs import Output, refuse_what_is_read
from ckptaudit.release.statement import Statement, TiedBy, inputs_of, run_of, statement_of
from ckptaudit.results.inputs import InputRecord, changed_input, difference, not_here
from ckptaudit.results.json_io import MAX_RESULT, read_json
from ckptaudit.results.records import AuditResult, CheckpointRecord


@dataclass(frozen=True)
class Request:
    """What to attest. `beside` are files in the folder that are no part of the model: the evidence itself.

    With `sampled` a result without digests is accepted, tied to the folder by its fingerprint alone.
    """

    result: Path
    folder: Path | None
    beside: tuple[Path, ...] = ()
    sampled: bool = False


def attested(request: Request) -> tuple[Path, Statement]:
    """The folder, and the statement about it.

    Raises CkptAuditError if the folder is not what was audited, or a file beside would replace one of the model's.
    """
    result = read_json(request.result)
    folder = _folder(request, result)
    refuse_what_is_read(map(Output, request.beside), [folder])
    ignored = within(folder, request.beside)
    files = file_digests(folder, ignored)
    run = run_of(result, folder, files)
    if not run:
        raise AttestationError(
            f"{printable(folder)}: none of the {len(result.tuned)} runs in {printable(request.result)}; "
            "name the folder of one of them."
        )
    _compare(inputs_of(result, run))
    tied_by = _tie(_record(result, run, request.result), folder, files, ignored, sampled=request.sampled)
    content = read_regular(request.result, MAX_RESULT)
    name = folder.resolve().name
    return folder, statement_of(result, run, content, files, name=name, tied_by=tied_by, ignored=ignored)


def within(folder: Path, paths: Sequence[Path]) -> list[str]:
    """Those of the paths that lie in the folder, as paths within it."""
    here = folder.resolve()
    found = [path.resolve() for path in paths]
    return [path.relative_to(here).as_posix() for path in found if path != here and path.is_relative_to(here)]


def _folder(request: Request, result: AuditResult) -> Path:
    if request.folder is not None:
        return request.folder
    if not result.has_pair:
        raise AttestationError(
            f"{printable(request.result)}: an audit of rollouts alone, without a checkpoint to attest."
        )
    if len(result.tuned) != 1:
        raise AttestationError(
            f"{printable(request.result)}: an audit of {len(result.tuned)} runs; name the folder of one."
        )
    return Path(result.tuned[0])


def _record(result: AuditResult, run: str, path: Path) -> CheckpointRecord:
    for record in result.checkpoints:
        if record.side == "tuned" and record.path == run:
            return record
    raise AttestationError(f"{printable(path)}: an audit of an earlier release, without fingerprints; audit again.")


def _tie(
    record: CheckpointRecord, folder: Path, files: Sequence[FileDigest], ignored: Sequence[str], *, sampled: bool
) -> TiedBy:
    """How the folder is known to hold what was judged. Raises AttestationError if it is not."""
    if record.files:
        judged = {file.name: file.sha256 for file in record.files if file.name not in ignored}
        changed = difference(judged, {file.name: file.sha256 for file in files})
        if changed:
            raise AttestationError(f"{printable(folder)}: not the files that were audited: {changed}; audit again.")
        return "digest"
    if not sampled:
        raise AttestationError(
            f"the result has no digest of {printable(record.path)}: audit again with {parameter('digest')}, or "
            f"accept its fingerprint of samples with {parameter('sampled')}."
        )
    if fingerprint(open_checkpoint(folder)) != record.fingerprint:
        raise AttestationError(f"{printable(folder)}: not the checkpoint that was audited, by its fingerprint.")
    return "sampled fingerprint"


def _compare(inputs: Sequence[InputRecord]) -> None:
    """Raise AttestationError for an input that lies where it was judged, and is another now."""
    for record in inputs:
        if not not_here(record, record.path) and (changed := changed_input(record, record.path)):
            raise AttestationError(
                f"{parameter(record.name)} {printable(record.path)}: not the files that were judged: {changed}; "
                "audit again."
            )
