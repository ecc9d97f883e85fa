"""A section about the audit in a model card, between two markers; the rest of the card is not touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ckptaudit.atomic_write import write_text
from ckptaudit.errors import ReportError, printable
from ckptaudit.foreign_files import read_text
from ckptaudit.report.appearance import margin_of
from ckptaudit.report.coverage_text import amount
from ckptaudit.report.markdown import escaped, headline
from ckptaudit.results.gate import answer, by_check, gravest
from ckptaudit.results.inputs import InputRecord
from ckptaudit.results.records import AuditResult, CheckpointRecord

BEGIN = "<!-- ckptaudit: begin -->"
END = "<!-- ckptaudit: end -->"
BROKEN_SHOWN = 10


def write_model_card(result: AuditResult, path: Path) -> None:
    """Put the section into the card, in its place or at the end; a card is made where there is none.

    Raises OSError, and ReportError for a card whose markers do not pair or that is no text.
    """
    try:
        card = read_text(path) if path.exists() else ""
    except UnicodeDecodeError:
        raise ReportError(f"{printable(path)}: no text in UTF-8, so no model card.") from None
    write_text(path, placed(card, section(result), path))


def placed(card: str, text: str, path: Path) -> str:
    """The card with the section between its markers. Raises ReportError if the markers do not pair."""
    marks = card.count(BEGIN), card.count(END)
    if marks == (0, 0):
        return f"{card.rstrip()}\n\n{text}" if card.strip() else text
    if marks != (1, 1) or card.index(BEGIN) > card.index(END):
        raise ReportError(f"{printable(path)}: the markers {BEGIN} and {END} stand there once each, or not at all.")
    before, _, rest = card.partition(BEGIN)
    return f"{before}{text.rstrip()}{rest.partition(END)[2]}"


def section(result: AuditResult) -> str:
    """The section with its markers, in Markdown."""
    return "\n".join([BEGIN, "## Checkpoint audit", "", *_lines(result), END, ""])


def _lines(result: AuditResult) -> Iterator[str]:
    yield f"**{headline(result)}**"
    yield ""
    yield "| | |\n|---|---|"
    yield from (f"| {name} | {value} |" for name, value in _facts(result))
    yield ""
    yield from _broken(result)
    about = "Weights are compared with the base they were tuned from. " if result.has_pair else ""
    yield f"{about}An open gate says that the checks named by the "
    yield "profile hold; what it does not say stands under *not judged*."


def _facts(result: AuditResult) -> Iterator[tuple[str, str]]:
    s = result.summary
    if result.about:
        yield "profile", escaped(result.about.profile or "given files")
    yield "verdicts", f"{s.passed} passed, {s.failed + s.errors} failed, {s.warned} warned, {s.waived} waived"
    for coverage in result.coverage:
        yield "judged", escaped(amount(coverage))
    for line in result.not_judged:
        yield "not judged", escaped(line)
    for record in result.checkpoints:
        # The name alone: a card is published, and where files lay on a machine is not.
        yield record.side, f"{escaped(Path(record.path).name)}, {_content(record)}"
    for given in result.inputs:
        yield f"input {given.name}", f"{escaped(Path(given.path).name)}, {_content(given)}"
    if result.about:
        version = result.about.versions.get("ckptaudit", "")
        yield "audited", escaped(f"{result.about.started}, ckptaudit {version}")


def _content(record: CheckpointRecord | InputRecord) -> str:
    return escaped(f"SHA-256 {record.digest}" if record.digest else f"sampled fingerprint {record.fingerprint}")


def _broken(result: AuditResult) -> Iterator[str]:
    groups = [gravest(group) for group in by_check(result.verdicts).values()]
    told = [v for v in groups if v.outcome in ("failed", "error", "waived")]
    for verdict in told[:BROKEN_SHOWN]:
        how = "waived" if verdict.outcome == "waived" else "closes the gate" if verdict.closes else verdict.severity
        said = margin_of(verdict) or verdict.reason
        yield f"- {escaped(verdict.check)} at {escaped(verdict.subject)}: {escaped(said)} ({how})"
    if len(told) > BROKEN_SHOWN:
        yield f"- and {len(told) - BROKEN_SHOWN} more checks"
    if told or not answer(result.verdicts).is_open:
        yield ""
