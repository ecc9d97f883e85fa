"""The audit as a page of GitHub-flavoured Markdown, for step summaries and merge requests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ckptaudit.atomic_write import write_text
from ckptaudit.errors import printable
from ckptaudit.judging.verdict import Verdict
from ckptaudit.report.appearance import (
    beyond,
    bound_mark,
    clipped,
    margin_of,
    number,
    open_words,
    shortened,
    word,
)
from ckptaudit.report.coverage_text import coverage_lines
from ckptaudit.report.failure import compared, remedy_of
from ckptaudit.report.heatmap import broken_checks, drawn_checks, grids
from ckptaudit.report.heatmap_text import heatmap_lines
from ckptaudit.results.gate import answer, by_check, gravest
from ckptaudit.results.inputs import InputRecord
from ckptaudit.results.records import AuditResult, CheckpointRecord
from ckptaudit.results.summary import counts

LIMIT = 1024 * 1024
"""What GitHub takes as a step summary, in bytes."""

MAP_WIDTH, NAME, SENTENCE = 100, 120, 400
CHECKS_SHOWN, VERDICTS_SHOWN, RUNS_SHOWN = 300, 200, 4


def write_markdown(result: AuditResult, path: Path) -> None:
    """Write the page, whole or not at all. Raises OSError."""
    write_text(path, markdown(result))


def markdown(result: AuditResult, limit: int = LIMIT) -> str:
    """The page in at most `limit` bytes; what does not fit any more is left out from the end and said."""
    told: list[str] = []
    room = limit - len(CUT.encode()) - 1
    for block in _blocks(result):
        room -= len(block.encode()) + 1
        if room < 0:
            return "\n".join([*told, CUT])
        told.append(block)
    return "\n".join(told)


CUT = "\nThe rest is left out: the page has reached its limit of size. The JSON has everything.\n"


def escaped(text: object) -> str:
    """The text as Markdown that shows exactly it: no markup, no link, no mention, no end of a table cell."""
    clean = re.sub(r"[\\`*<>&|\[\]#@~!$(){}]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", _entity, printable(text))
    return re.sub(r"(?i)(?<=[a-z]):(?=//)|(?<=www)\.|^[-+](?=\s|$)|^(?<=\d)\.", _entity, clean)


def _entity(found: re.Match[str]) -> str:
    return f"&#{ord(found[0])};"


def _blocks(result: AuditResult) -> Iterator[str]:
    yield f"## Checkpoint audit: {headline(result)}\n"
    yield from _checks(result)
    yield from _claims(result)
    yield from _maps(result)
    yield from _details(result)
    yield from _about(result)


def headline(result: AuditResult) -> str:
    """The answer in one line."""
    found = answer(result.verdicts)
    if found.closing:
        worst = found.closing[0]
        where = escaped(shortened(worst.subject, NAME))
        return f"gate closed, worst {escaped(shortened(worst.check, NAME))} at {where}, {escaped(beyond(worst))}"
    return open_words(result) if found.is_open else f"gate closed, {escaped(found.cause)}"


def _checks(result: AuditResult) -> Iterator[str]:
    groups = list(by_check(result.verdicts).values())
    several = len(result.runs) > 1
    columns = ["run"] * several + ["check", "verdict", "worst", "limit", "margin", "worst tensor"]
    rows = [_check_cells(group)[not several :] for group in groups[:CHECKS_SHOWN]]
    yield _table(columns, rows)
    if len(groups) > CHECKS_SHOWN:
        yield f"and {len(groups) - CHECKS_SHOWN} more rows\n"


def _check_cells(group: Sequence[Verdict]) -> list[str]:
    worst = gravest(group)
    counted = sum(v.outcome == worst.outcome for v in group)
    bold = f"**{word(worst)}**" if worst.closes else word(worst)
    where = worst.worst or worst.reason or worst.subject
    return [
        escaped(shortened(worst.tuned, NAME)),
        escaped(shortened(worst.check, NAME)),
        f"{bold} {counted}/{len(group)}" if len(group) > 1 else bold,
        "" if worst.value is None else escaped(bound_mark(worst.kind) + number(worst.value)),
        escaped(f"{worst.sign} {number(worst.limit)}"),
        margin_of(worst),
        escaped(shortened(where, NAME)),
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _claims(result: AuditResult) -> Iterator[str]:
    broken: dict[str, list[Verdict]] = {}
    for verdict in (v for v in result.verdicts if v.outcome == "failed"):
        broken.setdefault(verdict.check, []).append(verdict)
    for check in result.checks:
        if check.id in broken:
            worst = gravest(broken[check.id])
            texts = (check.claim, str(worst.cause or ""), remedy_of(worst, check.remedy))
            told = " ".join(escaped(clipped(" ".join(t.split()), SENTENCE)) for t in texts if t)
            yield f"- **{escaped(shortened(check.id, NAME))}**: {told}"


def _maps(result: AuditResult) -> Iterator[str]:
    runs = [run for run in result.runs if broken_checks(result, run)]
    for run in runs[:RUNS_SHOWN]:
        lines = heatmap_lines(grids(result, run, drawn_checks(result, run)), MAP_WIDTH)
        if lines:
            # The letters of the map are of our own; roles come from names, and a fence must not end early.
            drawn = "\n".join(printable(line.plain).replace("`", "'") for line in lines)
            whose = f" in {escaped(run)}" if len(result.runs) > 1 else ""
            yield f"\nWhere it broke{whose}:\n\n```text\n{drawn}\n```\n"


def _details(result: AuditResult) -> Iterator[str]:
    shut = answer(result.verdicts).closing
    if shut:
        rows = [
            [
                escaped(shortened(v.test or f"{v.check}[{v.subject}]", NAME)),
                escaped(compared(v) if v.value is not None else clipped(v.reason, SENTENCE)),
                escaped(shortened(v.worst or "", NAME)),
            ]
            for v in shut[:VERDICTS_SHOWN]
        ]
        more = f"\nand {len(shut) - len(rows)} more\n" if len(shut) > len(rows) else ""
        table = _table(["test", "measured", "worst tensor"], rows)
        title = f"{len(shut)} results close the gate" if len(shut) > 1 else "1 result closes the gate"
        yield f"\n<details><summary>{title}</summary>\n\n{table}{more}\n</details>\n"


def _about(result: AuditResult) -> Iterator[str]:
    yield f"\n{counts(result.verdicts)}.\n"
    prints = {c.path: _content(c) for c in result.checkpoints}
    pair = (("base", result.base), *(("tuned", run) for run in result.tuned))
    for side, path in pair if result.has_pair else ():
        yield f"- {side} {escaped(shortened(path, SENTENCE))}{prints.get(path, '')}"
    for record in result.inputs:
        yield f"- input {record.name} {escaped(shortened(record.path, SENTENCE))}{_content(record)}"
    for note in (*coverage_lines(result), *result.unaligned[:5], *result.notes[:5]):
        yield f"- {escaped(clipped(note, SENTENCE))}"
    if result.about:
        versions = ", ".join(f"{name} {version}" for name, version in result.about.versions.items())
        took = f"{result.about.seconds:.1f} s on {result.about.device}"
        yield f"- {escaped(result.about.started)}, {escaped(took)}; {escaped(clipped(versions, SENTENCE))}"
    yield ""


def _content(record: CheckpointRecord | InputRecord) -> str:
    """What tells the files: their digest, else the fingerprint of samples of them."""
    kind, value = ("SHA-256", record.digest) if record.digest else ("sampled fingerprint", record.fingerprint)
    return f" ({kind} {escaped(shortened(value, NAME))})"
