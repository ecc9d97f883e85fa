"""SARIF 2.1.0: broken claims as results of a static analysis, for services that show code scanning.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/sarif-v2.1.0-errata01-os-complete.html
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from ckptaudit.atomic_write import write_bytes
from ckptaudit.errors import printable
from ckptaudit.judging.verdict import Verdict
from ckptaudit.report.failure import in_one_line
from ckptaudit.results.gate import answer, gravity
from ckptaudit.results.records import AuditResult, CheckRecord

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS = {"gate": "error", "warn": "warning", "info": "note"}
MOST_RESULTS = 5000
"""What GitHub shows of a run; the gravest come first."""


def write_sarif(result: AuditResult, path: Path) -> None:
    """Write the log, whole or not at all. Raises OSError."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(sarif(result)), indent=1) + b"\n")


def sarif(result: AuditResult) -> dict[str, Any]:
    """The log: a rule for each check, a result for each claim that is broken, waived or could not be judged."""
    known = {check.id: number for number, check in enumerate(result.checks)}
    told = sorted((v for v in result.verdicts if v.outcome in ("failed", "error", "waived")), key=gravity)
    driver: dict[str, Any] = {"name": "ckptaudit", "rules": [_rule(check) for check in result.checks]}
    if result.about and (version := result.about.versions.get("ckptaudit")):
        driver["version"] = version
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "invocations": [_invocation(result)],
        "results": [_result(v, known) for v in told[:MOST_RESULTS]],
        "columnKind": "unicodeCodePoints",
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _invocation(result: AuditResult) -> dict[str, Any]:
    is_open = answer(result.verdicts).is_open
    return {"executionSuccessful": True, "exitCode": int(not is_open), "properties": {"gate": _word(is_open)}}


def _word(is_open: bool) -> str:
    return "open" if is_open else "closed"


def _rule(check: CheckRecord) -> dict[str, Any]:
    return {
        "id": check.id,
        "shortDescription": _message(check.claim),
        "fullDescription": _message(f"{check.claim} Source: {check.source}."),
        "help": _message(check.remedy or "No remedy is given."),
        "defaultConfiguration": {"level": LEVELS[check.severity]},
        "properties": {"metric": check.metric, "limit": f"{check.sign} {check.limit:g}", "file": check.file},
    }


def _result(verdict: Verdict, known: dict[str, int]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "ruleId": verdict.check,
        "kind": "fail",
        "level": "error" if verdict.closes else LEVELS[verdict.severity],
        "message": _message(in_one_line(verdict)),
        "locations": [_location(verdict)],
        "partialFingerprints": {"test/v1": f"{verdict.check}[{verdict.subject}]"},
        "properties": dict(_numbers(verdict)),
    }
    if verdict.check in known:
        found["ruleIndex"] = known[verdict.check]
    if verdict.outcome == "waived":
        found["suppressions"] = [{"kind": "external", "justification": printable(verdict.waiver)}]
    return found


def _numbers(verdict: Verdict) -> Iterator[tuple[str, Any]]:
    yield "outcome", verdict.outcome
    yield "metric", verdict.metric
    yield "limit", verdict.effective_limit
    yield "value", verdict.value


def _location(verdict: Verdict) -> dict[str, Any]:
    """The checkpoint as a place on disk, and the tensor or layer in it."""
    subject = verdict.worst or verdict.subject
    return {
        "physicalLocation": {"artifactLocation": {"uri": _uri(verdict.tuned)}},
        "logicalLocations": [{"fullyQualifiedName": printable(subject), "kind": "object"}],
    }


def _uri(path: str) -> str:
    place = Path(path)
    return place.as_uri() if place.is_absolute() else quote(place.as_posix(), safe="/")


def _message(text: str) -> dict[str, str]:
    """A plain text: nothing in it is taken for one of SARIF's links, which look like Markdown's."""
    return {"text": printable(" ".join(text.split())).replace("](", "] (")}
