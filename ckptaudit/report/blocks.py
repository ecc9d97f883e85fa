"""What keeps the gate shut, a block for each check: the claim once, then where it is broken, the gravest first."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rich.text import Text

from ckptaudit.errors import printable
from ckptaudit.findings import Finding
from ckptaudit.judging.verdict import Ranked, Verdict
from ckptaudit.metrics.descriptions import description_of
from ckptaudit.metrics.scales import is_count
from ckptaudit.report.appearance import bound_mark, first_few, margin_of, number, shortened, unit_of, word
from ckptaudit.report.appearance import margin as margin_against
from ckptaudit.report.columns import Column, aligned
from ckptaudit.report.failure import in_one_line, judged_as, remedy_of
from ckptaudit.report.places import names_a_weight, short_name
from ckptaudit.report.runs import labels
from ckptaudit.report.samples import sample_lines
from ckptaudit.results.gate import answer
from ckptaudit.results.records import AuditResult, CheckRecord

SHOWN = 10
"""How many subjects of a check are listed, unless all are asked for."""

ALL_BLOCKS, FEWEST = 48, 3
"""How many are listed in all blocks together, and the least for each check."""

CAUSES_SHOWN = 3
LABEL = 8
NAME = 40
NARROW = 90
"""Below this width weights are told by their place rather than their name."""

COLUMNS = (
    Column("value", right=True),
    Column("limit"),
    Column("margin"),
    Column("subject"),
    Column("tensor"),
    Column("reason", sentence=True),
)


@dataclass(frozen=True)
class Block:
    """A check with those of its verdicts that are broken, the gravest first; `judged` counts all of them."""

    check: CheckRecord | None
    verdicts: tuple[Verdict, ...]
    judged: int

    @property
    def title(self) -> str:
        """`spectral-drift: FAIL 4/4`."""
        first = self.verdicts[0]
        share = f" {len(self.verdicts)}/{self.judged}" if self.judged > 1 else ""
        return f"{printable(first.check)}: {word(first)}{share}"


@dataclass(frozen=True)
class Blind:
    """Verdicts that could not be given for one and the same reason."""

    reason: str
    verdicts: tuple[Verdict, ...]

    @property
    def checks(self) -> list[str]:
        """The checks that could not be judged, each once."""
        return list(dict.fromkeys(printable(v.check) for v in self.verdicts))

    @property
    def title(self) -> str:
        """`11 checks: ERROR`."""
        return f"{self.checks[0] if len(self.checks) == 1 else f'{len(self.checks)} checks'}: ERROR"


def blocks(result: AuditResult) -> list[Block]:
    """One for each check that is broken and closes the gate, the gravest first."""
    found: dict[str, list[Verdict]] = {}
    for verdict in answer(result.verdicts).closing:
        if verdict.outcome == "failed":
            found.setdefault(verdict.check, []).append(verdict)
    checks = {check.id: check for check in result.checks}
    judged = Counter(v.check for v in result.verdicts)
    return [Block(checks.get(name), tuple(group), judged[name]) for name, group in found.items()]


def blind_blocks(result: AuditResult) -> list[Blind]:
    """What could not be judged, by tensor and reason: a single NaN keeps every check of its matrix from a value."""
    found: dict[tuple[str, ...], list[Verdict]] = {}
    for v in answer(result.verdicts).closing:
        if v.outcome == "error":
            why = v.reason.partition(": ")[0] if v.worst else v.reason
            found.setdefault((v.tuned, v.worst or "", why), []).append(v)
    return [Blind(why, tuple(group)) for (_, _, why), group in found.items()]


def block_lines(result: AuditResult, width: int, *, complete: bool = False) -> Iterator[Text]:
    """All blocks; `complete` lists every subject, with what the check's file remarks."""
    found = blocks(result)
    most = max(FEWEST, min(SHOWN, ALL_BLOCKS // max(len(found), 1)))
    names = labels(result) if len(result.runs) > 1 else {}
    for block in found:
        yield _heading(block.title, width)
        yield from map(Text, _about(block, width))
        rows = _rows(block, names, width)
        kept, shared = _shared_reasons(rows if complete else rows[:most])
        yield from map(Text, aligned(_columns(block), kept, width, LABEL))
        if len(rows) > len(kept):
            yield Text(f"{' ' * LABEL}and {len(rows) - len(kept)} more: -v")
        yield from (Text(line) for reason in shared for line in _labelled("reason", reason, width))
        yield from map(Text, _of_rollouts(block, width))
        yield from map(Text, _remedies(block, width, complete=complete))
    checks = {check.id: check for check in result.checks}
    for blind in blind_blocks(result):
        yield _heading(blind.title, width)
        yield from map(Text, _blind_lines(blind, names, checks.get(blind.verdicts[0].check), width))


def _heading(title: str, width: int) -> Text:
    return Text(f" {title} ".center(width, "_"), "bold red")


def _blind_lines(blind: Blind, names: dict[str, str], check: CheckRecord | None, width: int) -> Iterator[str]:
    first = blind.verdicts[0]
    yield from _labelled("reason", blind.reason, width)
    yield from _labelled("tensor", first.worst or "", width)
    yield from _labelled("run", names.get(first.tuned, ""), width)
    if len(blind.checks) == 1:
        yield from _labelled("claim", check.claim if check else "", width)
    else:
        yield from _labelled("checks", ", ".join(blind.checks), width)
    subjects = dict.fromkeys(printable(v.subject) for v in blind.verdicts)
    yield from _labelled("subject", first_few(list(subjects), SHOWN), width)
    yield from _labelled("cause", str(first.cause or ""), width)
    yield from _labelled("remedy", remedy_of(first, check.remedy if check else ""), width)


def one_line_each(result: AuditResult) -> Iterator[str]:
    """A line for each verdict that closes the gate, headed by its test's id."""
    groups = (*(block.verdicts for block in blocks(result)), *(blind.verdicts for blind in blind_blocks(result)))
    for group in groups:
        for v in group:
            yield f"{printable(v.test or f'{v.check}[{v.subject}]')}: {in_one_line(v)}"


def _about(block: Block, width: int) -> Iterator[str]:
    check = block.check
    if check is None:
        return
    yield from _labelled("claim", check.claim, width)
    unit = f", {unit_of(check.metric)}" if unit_of(check.metric) else ""
    yield from _labelled("judged", f"{judged_as(check)}{unit}; limit {check.sign} {number(check.limit)}", width)


def _of_rollouts(block: Block, width: int) -> Iterator[str]:
    """At which steps of the rollouts, and samples that show it."""
    for verdict in block.verdicts:
        if verdict.over_steps is not None:
            yield from _labelled("steps", verdict.reason, width)
        for line in sample_lines(verdict):
            yield from _labelled("sample", line, width)


def _remedies(block: Block, width: int, *, complete: bool) -> Iterator[str]:
    check, first = block.check, block.verdicts[0]
    causes = dict.fromkeys(f"{v.cause} ({printable(v.subject)})" for v in block.verdicts if v.cause)
    for cause in list(causes)[:CAUSES_SHOWN]:
        yield from _labelled("cause", cause, width)
    for label, texts in (("moved", _moved(block)), ("waiver", [v.waiver for v in block.verdicts])):
        for text in dict.fromkeys(filter(None, texts)):
            yield from _labelled(label, text, width)
    if check is not None:
        yield from _labelled("source", check.source, width)
        if complete:
            yield from _labelled("figures", check.published, width)
            yield from _labelled("note", check.note, width)
        yield from _labelled("remedy", remedy_of(first, check.remedy), width)


def _moved(block: Block) -> list[str]:
    """Who moved the limit, where not the check's own file set it."""
    return [v.limit_from for v in block.verdicts if not v.limit_from.startswith("check in ")]


def _labelled(label: str, text: str, width: int) -> list[str]:
    words = printable(" ".join(text.split()))
    if not words:
        return []
    lines = textwrap.wrap(words, max(width - LABEL, 24), break_on_hyphens=False)
    return [f"{label if i == 0 else '':<{LABEL}}{line}" for i, line in enumerate(lines)]


def _rows(block: Block, names: dict[str, str], width: int) -> list[tuple[str, ...]]:
    first = block.verdicts[0]
    if len(block.verdicts) == 1 and first.findings:
        return [("", "", "", "", *_finding(finding)) for finding in first.findings]
    if len(block.verdicts) == 1 and len(first.ranking) > 1 and not names and _is_one_of_many(block):
        told = [r for r in first.ranking if not (is_count(first.metric) and r.value == 0)]
        return [_ranked_row(first, r, width, at_top=r is told[0]) for r in told]
    limits = {v.effective_limit for v in block.verdicts} | ({block.check.limit} if block.check else set())
    return [_row(v, names, width, limit=len(limits) > 1) for v in block.verdicts]


def _is_one_of_many(block: Block) -> bool:
    """Whether the value is that of one weight, or a count of them: then those behind it are worth a row."""
    return block.check is None or block.check.judge_by in ("worst", "sum")


def _columns(block: Block) -> tuple[Column, ...]:
    """The columns; what is ranked of a log are its steps."""
    known = description_of(block.verdicts[0].metric)
    of_log = known is not None and known.scope == "rollouts"
    return tuple(replace(c, heading="step") if of_log and c.heading == "tensor" else c for c in COLUMNS)


def _shared_reasons(rows: list[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], list[str]]:
    """The rows without the reasons that several have in common, and those, each once."""
    counts = Counter(row[-1] for row in rows)
    shared = [reason for reason, count in counts.items() if reason and count > 1]
    return [(*row[:-1], "") if row[-1] in shared else row for row in rows], shared


def _finding(finding: Finding) -> tuple[str, str]:
    about = printable(finding.tensor)
    return shortened(about, NAME), str(finding).removeprefix(f"{about}: ")


def _row(v: Verdict, names: dict[str, str], width: int, *, limit: bool) -> tuple[str, ...]:
    run = f"{names[v.tuned]}:" if v.tuned in names else ""
    return (
        bound_mark(v.kind) + number(v.value or 0.0),
        f"{v.sign} {number(v.effective_limit)}" if limit else "",
        margin_of(v),
        f"{run}{printable(v.subject)}",
        _tensor(v, width),
        printable(v.reason),
    )


def _tensor(v: Verdict, width: int) -> str:
    if not v.worst or v.worst == v.subject:
        return ""
    name = printable(short_name(v.worst) if width < NARROW and names_a_weight(v) else v.worst)
    return shortened(name, NAME) if v.reason else name


def _ranked_row(v: Verdict, ranked: Ranked, width: int, *, at_top: bool) -> tuple[str, ...]:
    name = short_name(ranked.tensor) if width < NARROW and names_a_weight(v) else ranked.tensor
    margin = "" if is_count(v.metric) else margin_against(ranked.value, v.limit_of(ranked.tensor), v.sign)
    reason = ranked.remark or (v.reason if at_top else "")
    return (number(ranked.value), "", margin, "", shortened(printable(name), NAME), printable(reason))
