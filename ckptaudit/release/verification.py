"""Whether an attestation holds for a folder as it is now: signature, content, gate, coverage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ckptaudit.checkpoints.digests import file_digests, root_digest
from ckptaudit.errors import AttestationError, CkptAuditError, parameter, printable
from ckptaudit.release.attesting import within
from ckptaudit.release.envelope import is_signed_by, open_envelope, public_key_of
from ckptaudit.release.statement import STATEMENT, TEST_RESULT, AuditFacts, Statement
from ckptaudit.results.inputs import InputName, InputRecord, changed_input, difference, not_here


@dataclass(frozen=True)
class Asked:
    """What has to be the case; `min_coverage` is a share of the parameters."""

    attestation: Path
    folder: Path
    key: Path
    min_coverage: float
    profiles: tuple[str, ...] = ()
    waivers: bool = True
    sampled: bool = False
    inputs: Mapping[InputName, tuple[str, ...]] = field(default_factory=dict)
    """Where inputs beside the weights lie now, in the order of the audit; others are sought where they lay."""


@dataclass(frozen=True)
class Point:
    """One thing that was looked at."""

    name: str
    holds: bool
    said: str


def verified(asked: Asked) -> list[Point]:
    """All points; after a signature that does not hold, nothing else is believed or looked at.

    Raises CkptAuditError where a file cannot be read or is no attestation.
    """
    envelope, key = open_envelope(asked.attestation), public_key_of(asked.key)
    if not is_signed_by(envelope, key):
        return [Point("signature", False, f"not one of the key {key.keyid[:16]} over this content")]
    statement = _decoded(envelope.payload, asked.attestation)
    facts = statement.predicate.ckptaudit_audit
    return [
        Point("signature", True, f"by the key {key.keyid[:16]}"),
        _content(asked, statement),
        _tied(facts, asked),
        _gate(statement),
        _coverage(facts, asked.min_coverage),
        *_inputs(facts, asked),
        *_asked_for(facts, asked),
    ]


def _decoded(payload: bytes, path: Path) -> Statement:
    try:
        statement = msgspec.json.decode(payload, type=Statement)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AttestationError(
            f"{printable(path)}: no statement of a checkpoint audit ({printable(error)[:120]})."
        ) from None
    if (statement.type, statement.predicate_type) != (STATEMENT, TEST_RESULT):
        raise AttestationError(f"{printable(path)}: a statement of {printable(statement.predicate_type)[:80]}.")
    return statement


def _content(asked: Asked, statement: Statement) -> Point:
    facts = statement.predicate.ckptaudit_audit
    ignored = {*facts.ignored_paths, *within(asked.folder, [asked.attestation])}
    now = file_digests(asked.folder, ignored)
    changed = difference({f.name: f.sha256 for f in facts.files}, {f.name: f.sha256 for f in now})
    root = root_digest(now)
    subject = [resource.digest.get("sha256") for resource in statement.subject]
    if changed or subject != [root]:
        return Point("content", False, f"not what was attested: {changed or 'another digest'}")
    return Point("content", True, f"{len(now)} files, sha256 {root}")


def _tied(facts: AuditFacts, asked: Asked) -> Point:
    by_digest = facts.tied_by == "digest"
    said = "the files that were audited, by the digest of all of them"
    if not by_digest:
        said = f"by a {facts.tied_by} of the files, which is no proof; {parameter('sampled')} accepts it"
    return Point("audited", by_digest or asked.sampled, said)


def _gate(statement: Statement) -> Point:
    predicate = statement.predicate
    is_open = (
        predicate.ckptaudit_audit.gate == "open" and predicate.result != "FAILED" and not predicate.failed_tests
    )
    counted = {"passed": predicate.passed_tests, "warned": predicate.warned_tests, "failed": predicate.failed_tests}
    counts = ", ".join(f"{len(tests)} {how}" for how, tests in counted.items())
    return Point("gate", is_open, f"{'open' if is_open else 'closed'}: {counts}")


def _coverage(facts: AuditFacts, least: float) -> Point:
    covered = facts.coverage
    if covered is None:
        return Point("coverage", False, "the statement has none")
    share = covered.judged_parameters / covered.parameters if covered.parameters else 1.0
    said = f"{100 * share:.4g} % of the parameters, {covered.judged} of {covered.tensors} tensors"
    return Point("coverage", share >= least, f"{said}; at least {100 * least:g} % is asked for")


def _inputs(facts: AuditFacts, asked: Asked) -> Iterator[Point]:
    """A point for each input that the audit rests on. Raises AttestationError for one that it does not."""
    left: dict[str, list[str]] = {name: list(paths) for name, paths in asked.inputs.items()}
    for record in facts.inputs:
        waiting = left.get(record.name, [])
        yield _input(record, waiting.pop(0) if waiting else "")
    for name, paths in left.items():
        if paths:
            raise AttestationError(
                f"{parameter(name)} {printable(paths[0])}: the audit judged none, or not as many as are given."
            )


def _input(record: InputRecord, given: str = "") -> Point:
    path = given or record.path
    why = not_here(record, path)
    if why and not (given and record.files):
        can_be_named = record.files and record.name != "bundled"
        elsewhere = f"; {parameter(record.name)} says where it lies" if can_be_named else ""
        return Point(record.name, not given, f"{why}, so it was not looked at{elsewhere}")
    changed = _changed(record, path)
    files = f"{len(record.files)} file{'s' * (len(record.files) != 1)}"
    said = f"not what was judged: {changed}" if changed else f"{files}, sha256 {record.digest}"
    return Point(record.name, not changed, f"{path}: {said}")


def _changed(record: InputRecord, path: str) -> str:
    try:
        return changed_input(record, path)
    except CkptAuditError as error:
        if not Path(path).exists():
            raise
        return error.sentence  # it was of a known kind and could be read when it was judged


def _asked_for(facts: AuditFacts, asked: Asked) -> Iterator[Point]:
    if asked.profiles:
        among = printable(facts.profile) or "none"
        yield Point("profile", facts.profile in asked.profiles, f"{among}; asked for: {', '.join(asked.profiles)}")
    if not asked.waivers:
        yield Point("waivers", not facts.waivers, f"{len(facts.waivers)} broken claims are forgiven")
