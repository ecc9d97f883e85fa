"""An in-toto statement of what an audit found: predicate test-result v0.1, subject the files that were judged.

https://in-toto.io/attestation/test-result/v0.1, in the Statement v1 of https://in-toto.io/Statement/v1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal

import msgspec

from ckptaudit.checkpoints.digests import ONE_FILE, FileDigest, root_digest
from ckptaudit.judging.verdict import Verdict
from ckptaudit.results.gate import answer
from ckptaudit.results.inputs import InputRecord
from ckptaudit.results.records import AuditResult, CheckpointRecord

STATEMENT = "https://in-toto.io/Statement/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
PAYLOAD = "application/vnd.in-toto+json"

Grade = Literal["PASSED", "WARNED", "FAILED"]
TiedBy = Literal["digest", "sampled fingerprint"]


class Resource(msgspec.Struct, frozen=True, omit_defaults=True):
    """A ResourceDescriptor: something known by its digest."""

    name: str
    digest: dict[str, str] = {}
    annotations: dict[str, str] = {}


class LimitInForce(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A limit that verdicts of a check were held to, and who set it; `subjects` is how many of them."""

    check: str
    metric: str
    sign: str
    limit: float | None
    severity: str
    source: str
    set_by: str
    subjects: int


class Waived(msgspec.Struct, frozen=True):
    """A broken claim that the configuration forgives, and why."""

    test: str
    reason: str


class Covered(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How much of the weights at least one check limited."""

    tensors: int
    judged: int
    parameters: int
    judged_parameters: int
    left_out: tuple[str, ...]


class AuditFacts(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the predicate has no field for. `tied_by` says how the files are known to be those that were judged."""

    version: str
    profile: str
    gate: Literal["open", "closed"]
    tied_by: TiedBy
    started: str
    limits: tuple[LimitInForce, ...]
    waivers: tuple[Waived, ...]
    noted_tests: tuple[str, ...]
    skipped_tests: tuple[str, ...]
    coverage: Covered | None
    not_judged: tuple[str, ...]
    files: tuple[FileDigest, ...]
    ignored_paths: tuple[str, ...]
    inputs: tuple[InputRecord, ...] = ()
    """What was judged beside the weights, and by what: logs, probes, verdicts, checkpoints, checks, settings."""


class TestResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The predicate; `ckptaudit_audit` is an extension field, as in-toto's parsing rules allow."""

    __test__ = False  # no test class, whatever pytest thinks of its name

    result: Grade
    configuration: tuple[Resource, ...]
    passed_tests: tuple[str, ...]
    warned_tests: tuple[str, ...]
    failed_tests: tuple[str, ...]
    ckptaudit_audit: AuditFacts


class Statement(
    msgspec.Struct, frozen=True, kw_only=True, rename={"type": "_type", "predicate_type": "predicateType"}
):
    """What is signed."""

    type: str = STATEMENT
    subject: tuple[Resource, ...]
    predicate_type: str = TEST_RESULT
    predicate: TestResult


def statement_of(
    result: AuditResult,
    run: str,
    content: bytes,
    files: Sequence[FileDigest],
    *,
    name: str,
    tied_by: TiedBy,
    ignored: Sequence[str] = (),
) -> Statement:
    """The statement about one run of a result. `content` is the result's JSON, `files` are the run's, now."""
    verdicts = [v for v in result.verdicts if v.tuned == run]
    graded = _graded(verdicts)
    is_open = answer(verdicts).is_open
    return Statement(
        subject=(Resource(name, {"sha256": root_digest(files)}),),
        predicate=TestResult(
            result="FAILED" if not is_open else "WARNED" if graded["warned"] else "PASSED",
            configuration=tuple(_configuration(result, content, inputs_of(result, run))),
            passed_tests=graded["passed"],
            warned_tests=graded["warned"],
            failed_tests=graded["failed"],
            ckptaudit_audit=AuditFacts(
                version=result.about.versions.get("ckptaudit", "") if result.about else "",
                profile=result.about.profile if result.about else "",
                gate="open" if is_open else "closed",
                tied_by=tied_by,
                started=result.about.started if result.about else "",
                limits=tuple(_limits(result, verdicts)),
                waivers=tuple(Waived(test_name(v), v.waiver) for v in verdicts if v.outcome == "waived"),
                noted_tests=graded["noted"],
                skipped_tests=graded["skipped"],
                coverage=_coverage(result, run),
                not_judged=result.not_judged,
                files=tuple(files),
                ignored_paths=tuple(ignored),
                inputs=inputs_of(result, run),
            ),
        ),
    )


def test_name(verdict: Verdict) -> str:
    """What a verdict's test is called."""
    return verdict.test or f"{verdict.check}[{verdict.subject}]"


test_name.__test__ = False  # type: ignore[attr-defined]


def _graded(verdicts: Sequence[Verdict]) -> dict[str, tuple[str, ...]]:
    """The tests by how they ended, as a reader of test results sorts them."""
    found: dict[str, list[str]] = {grade: [] for grade in ("passed", "warned", "failed", "noted", "skipped")}
    for verdict in verdicts:
        found[_grade(verdict)].append(test_name(verdict))
    return {grade: tuple(names) for grade, names in found.items()}


def _grade(verdict: Verdict) -> str:
    """`warned` is broken and forgiven, or of a check that only warns; `noted` of one that only informs."""
    if verdict.closes:
        return "failed"
    if verdict.outcome == "failed":
        return "noted" if verdict.severity == "info" else "warned"
    return {"waived": "warned", "skipped": "skipped"}.get(verdict.outcome, "passed")


def inputs_of(result: AuditResult, run: str) -> tuple[InputRecord, ...]:
    """What the verdicts on a run rest on beside its weights."""
    return tuple(record for record in result.inputs if record.tuned in ("", run))


def _configuration(result: AuditResult, content: bytes, inputs: Sequence[InputRecord]) -> Iterator[Resource]:
    base = next((c for c in result.checkpoints if c.side == "base"), None)
    if base is not None:
        yield Resource("base", _digest_of(base), {"path": base.path, "sampledFingerprint": base.fingerprint})
    yield Resource("audit.json", {"sha256": sha256(content).hexdigest()})
    checks: dict[str, str] = {}
    for record in inputs:
        if record.name in ("checks", "bundled"):
            checks |= {Path(record.path).name if f.name == ONE_FILE else f.name: f.sha256 for f in record.files}
            continue
        told = {"sampledFingerprint": record.fingerprint} if record.fingerprint else {}
        yield Resource(record.name, _digest_of(record), {"path": record.path, **told})
    for file in dict.fromkeys(check.file for check in result.checks):
        yield Resource(f"checks/{file}", {"sha256": checks[file]} if file in checks else {})


def _digest_of(record: CheckpointRecord | InputRecord) -> dict[str, str]:
    return {"sha256": record.digest} if record.digest else {}


def _limits(result: AuditResult, verdicts: Sequence[Verdict]) -> Iterator[LimitInForce]:
    """Each limit that was in force, once for each check and who set it."""
    files = {check.id: check.file for check in result.checks}
    counted: dict[tuple[str, str, str, float, str, str, str], int] = {}
    for v in verdicts:
        key = (
            v.check,
            v.metric,
            v.sign,
            v.effective_limit,
            v.severity,
            v.source,
            v.limit_from or files.get(v.check, ""),
        )
        counted[key] = counted.get(key, 0) + 1
    for (check, metric, sign, limit, severity, source, set_by), subjects in counted.items():
        yield LimitInForce(
            check=check,
            metric=metric,
            sign=sign,
            limit=limit,
            severity=severity,
            source=source,
            set_by=set_by,
            subjects=subjects,
        )


def _coverage(result: AuditResult, run: str) -> Covered | None:
    for found in result.coverage:
        if found.tuned == run:
            return Covered(
                tensors=found.tensors,
                judged=found.judged,
                parameters=found.parameters,
                judged_parameters=found.judged_parameters,
                left_out=tuple(f"{item.tensor}: {item.reason}" for item in found.left_out),
            )
    return None


def run_of(result: AuditResult, folder: Path, files: Sequence[FileDigest]) -> str:
    """Which run of a result a folder holds: the one with its content, else the one at its path; "" for none."""
    for record in result.checkpoints:
        if record.side == "tuned" and record.files and record.files == tuple(files):
            return record.path
    here = folder.resolve()
    named = [run for run in result.tuned if Path(run).resolve() == here]
    return named[0] if named else result.tuned[0] if len(result.tuned) == 1 else ""
