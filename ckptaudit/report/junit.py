"""JUnit: the properties that pytest's own file carries, and the same file made again from a result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, tostring

from ckptaudit.atomic_write import write_bytes
from ckptaudit.errors import printable
from ckptaudit.judging.verdict import Verdict
from ckptaudit.report.coverage_text import left_out, rollouts_lines
from ckptaudit.report.escaping import block
from ckptaudit.report.failure import explain, in_one_line
from ckptaudit.results.records import About, AuditResult, CheckpointRecord, CheckRecord

if TYPE_CHECKING:
    from junit_xml import TestCase

SUITE = "ckptaudit"


def case_properties(verdict: Verdict | Verdict) -> Iterator[tuple[str, str]]:
    """What a test case tells besides its name and outcome."""
    yield "metric", verdict.metric
    yield "value", "" if verdict.value is None else repr(verdict.value)
    yield "kind", verdict.kind or ""
    yield "limit", f"{verdict.sign} {verdict.limit!r}"
    yield "worst_tensor", printable(verdict.worst or "")
    yield "source", printable(verdict.source)
    yield "severity", verdict.severity
    yield "limit_from", printable(verdict.limit_from)
    if verdict.released is not None:
        yield "released", repr(verdict.released)
        yield "released_limit", f"{verdict.sign} {verdict.released_limit!r}"
    if verdict.over_steps is not None:
        yield "steps_judged", str(verdict.over_steps.judged)
        yield "steps_broken", str(verdict.over_steps.broken)
        yield "first_broken", printable(verdict.over_steps.first_broken)
    if verdict.waiver:
        yield "waiver", printable(verdict.waiver)


def suite_properties(checkpoints: Sequence[CheckpointRecord], about: About | None) -> Iterator[tuple[str, str]]:
    """What the whole file is about: the pair, its fingerprints, how it was judged, versions."""
    tuned = [c for c in checkpoints if c.side == "tuned"]
    numbers = iter(range(1, len(tuned) + 1))
    for checkpoint in checkpoints:
        several = checkpoint.side == "tuned" and len(tuned) > 1
        name = f"tuned_{next(numbers)}" if several else checkpoint.side
        yield name, printable(checkpoint.path)
        yield f"{name}_fingerprint", checkpoint.fingerprint
    if about is not None:
        yield "profile", about.profile
        yield "device", about.device
        yield "exact", str(about.exact).lower()
        yield from ((f"version_{name}", version) for name, version in about.versions.items())


def coverage_properties(result: AuditResult) -> Iterator[tuple[str, str]]:
    """How much of each run was judged."""
    yield "judged", "weights" if result.has_pair else "rollouts alone, no weights"
    for number, coverage in enumerate(result.coverage, start=1):
        suffix = f"_{number}" if len(result.coverage) > 1 else ""
        yield f"coverage_tensors{suffix}", f"{coverage.judged} of {coverage.tensors}"
        yield f"coverage_parameters{suffix}", f"{coverage.share:.6f}"
        yield from ((f"left_out{suffix}", printable(line)) for line in left_out(coverage))
    yield from (("not_judged", printable(line)) for line in result.not_judged)
    yield from (("rollouts", printable(line)) for log in result.rollouts for line in rollouts_lines(log))


def write_junit(result: AuditResult, path: Path) -> None:
    """Write the file that `--junitxml` would have written about the same verdicts. Raises OSError."""
    write_bytes(path, junit(result))


def write_strict_junit(result: AuditResult, path: Path) -> None:
    """The same for servers that validate: what the properties say stands in `system-out`. Raises OSError."""
    write_bytes(path, junit(result, strict=True))


def junit(result: AuditResult, *, strict: bool = False) -> bytes:
    """The content of the file.

    `strict` keeps to the schema of Jenkins' xUnit plugin, which knows no properties of test cases.
    """
    from junit_xml import TestSuite

    checks = {check.id: check for check in result.checks}
    suite = TestSuite(
        SUITE,
        [_case(v, checks.get(v.check), strict=strict) for v in result.verdicts],
        timestamp=result.about.started if result.about else None,
        properties=dict((*suite_properties(result.checkpoints, result.about), *coverage_properties(result))),
    ).build_xml_doc()
    _mend(suite, result, strict=strict)
    root = Element("testsuites", name=SUITE)
    root.append(suite)
    _escape(root)
    content: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def _escape(root: Element) -> None:
    """No character that XML cannot hold, and none that is not seen, wherever the text came from."""
    for element in root.iter():
        element.text = element.text and block(element.text)
        for name, value in element.attrib.items():
            element.set(name, block(value))


def _case(verdict: Verdict, check: CheckRecord | None, *, strict: bool) -> TestCase:
    from junit_xml import TestCase

    classname, name = _address(verdict, check)
    case = TestCase(name, classname)
    # Most verdicts hold, and their words would be written for nobody.
    is_shown = verdict.outcome in ("failed", "error")
    text = explain(verdict, check) if check and is_shown else in_one_line(verdict)
    if verdict.outcome == "failed" and verdict.closes:
        case.add_failure_info(in_one_line(verdict), text)
    elif verdict.outcome == "error":
        case.add_error_info(f'failed on setup with "{in_one_line(verdict)}"', text)
    elif verdict.outcome in ("skipped", "waived"):
        case.add_skipped_info(printable(verdict.reason))
    elif verdict.outcome == "failed":
        case.stdout = text
    if strict:
        listed = "\n".join(f"{name}: {value}" for name, value in case_properties(verdict))
        case.stdout = f"{case.stdout}\n{listed}" if case.stdout else listed
    return case


def _address(verdict: Verdict, check: CheckRecord | None) -> tuple[str, str]:
    """Class and name as pytest derives them from a test's id."""
    if not verdict.test:
        return check.file if check else SUITE, f"{verdict.check}[{printable(verdict.subject)}]"
    path, _, name = printable(verdict.test).partition("::")
    return path.replace("/", "."), name


def _mend(suite: Element, result: AuditResult, *, strict: bool) -> None:
    """Put in what the package cannot say: properties of cases, and which skips are waivers."""
    suite.attrib.pop("disabled", None)
    suite.set("time", f"{result.about.seconds if result.about else 0:.3f}")
    for case, verdict in zip(suite.iter("testcase"), result.verdicts, strict=True):
        for skipped in case.iter("skipped"):
            skipped.set("type", "pytest.xfail" if verdict.outcome == "waived" else "pytest.skip")
        if not strict:
            properties = Element("properties")
            case.insert(0, properties)
            for name, value in case_properties(verdict):
                SubElement(properties, "property", name=name, value=value)
