"""The summary at the end of the terminal output: a row for each check, where it broke, and the answer."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from io import StringIO
from typing import Literal

from rich.console import Console
from rich.text import Text

from ckptaudit.errors import printable
from ckptaudit.judging.verdict import Verdict
from ckptaudit.report.appearance import margin_of, open_words
from ckptaudit.report.coverage_text import coverage_lines
from ckptaudit.report.escaping import styled_line
from ckptaudit.report.heatmap import broken_checks, grids
from ckptaudit.report.heatmap_text import heatmap_lines
from ckptaudit.report.table import check_lines
from ckptaudit.results.gate import answer, by_check
from ckptaudit.results.records import AuditResult

RUNS_SHOWN = 4
CAUSES_SHOWN = 3


def render_summary(
    result: AuditResult, *, width: int, colour: bool, verbosity: int = 0, exit_code: int | None = None
) -> str:
    """The summary as text of the given width, with colour codes or without.

    `verbosity` is pytest's: at -1 only what does not hold is listed, at -2 nothing but the answer;
    from 1 on every broken check has a map of its own. `exit_code` is pytest's, where it is known.
    """
    stream = StringIO()
    system: Literal["standard"] | None = "standard" if colour else None
    # Lines come at their final width; the console only turns styles into codes.
    console = Console(file=stream, width=10_000, force_terminal=colour, color_system=system, no_color=not colour)
    for line in _lines(result, width, verbosity, exit_code):
        console.print(styled_line(line), soft_wrap=True)
    return stream.getvalue().rstrip("\n")


def _lines(result: AuditResult, width: int, verbosity: int, exit_code: int | None) -> Iterator[Text]:
    if verbosity > -2:
        yield from _tables(result, width, verbosity)
    if verbosity >= 0:
        yield from _claims(result, width)
        yield from _maps(result, width, apart=verbosity > 0)
        yield from _about(result)
        for line in coverage_lines(result):
            yield from (Text(part) for part in _wrapped(printable(line), width))
    yield from _counts(result)
    yield _answer(result, exit_code)


def _tables(result: AuditResult, width: int, verbosity: int) -> Iterator[Text]:
    groups = by_check(result.verdicts)
    all_rows = verbosity >= 0
    for run in result.runs:
        own = [g for (tuned, _), g in groups.items() if tuned == run and (all_rows or _is_telling(g))]
        brief = [g for g in own if verbosity < 1 and _says_nothing(g)]
        if len(result.runs) > 1 and own:
            yield Text(f"run {printable(run)}", style="bold")
        yield from check_lines([g for g in own if g not in brief], width)
        yield from _brief_lines(brief, width)
    # A verdict about several runs at once stands under none of them.
    rest = [g for (tuned, _), g in groups.items() if tuned not in result.runs and (all_rows or _is_telling(g))]
    yield from check_lines(rest, width)


def _is_telling(group: Sequence[Verdict]) -> bool:
    return any(v.outcome not in ("passed", "skipped") for v in group)


def _says_nothing(group: Sequence[Verdict]) -> bool:
    """Whether a row of its own would tell nothing: nothing was found where nothing may be, or nothing is there."""
    nothing_found = all(v.outcome == "passed" and v.value == v.limit == 0 for v in group)
    return nothing_found or all(v.outcome == "skipped" for v in group)


def _brief_lines(groups: Sequence[Sequence[Verdict]], width: int) -> Iterator[Text]:
    """Rows that tell nothing, in a sentence for each kind."""
    kinds: dict[str, list[str]] = {}
    for group in groups:
        skipped = group[0].outcome == "skipped"
        kinds.setdefault("skipped" if skipped else "nothing found by", []).append(printable(group[0].check))
    for kind, names in kinds.items():
        yield from (Text(line) for line in _wrapped(f"{kind}: {', '.join(names)}", width))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 20), subsequent_indent="    ")


def _claims(result: AuditResult, width: int) -> Iterator[Text]:
    broken = {v.check for v in result.verdicts if v.outcome == "failed"}
    told = [check for check in result.checks if check.id in broken and check.severity != "info"]
    if told:
        yield Text("")
        yield Text("broken claims", style="bold")
    for check in told:
        words = f"{check.id}: {printable(' '.join(check.claim.split()))}"
        for line in textwrap.wrap(words, max(width, 20), initial_indent="  ", subsequent_indent="      "):
            yield Text(line)
        for cause in _causes_of(result, check.id):
            yield Text(f"      {cause}")


def _causes_of(result: AuditResult, check: str) -> list[str]:
    """What the broken tensors of a check look like, each once, the first few."""
    told = (f"{v.cause} ({printable(v.subject)})" for v in result.verdicts if v.check == check and v.cause)
    return list(dict.fromkeys(told))[:CAUSES_SHOWN]


def _maps(result: AuditResult, width: int, *, apart: bool) -> Iterator[Text]:
    runs = [run for run in result.runs if broken_checks(result, run)]
    for run in runs[:RUNS_SHOWN]:
        checks = broken_checks(result, run)
        for chosen in [[c] for c in checks] if apart else [checks]:
            lines = heatmap_lines(grids(result, run, chosen), width)
            if lines:
                whose = f" of {printable(run)}" if len(result.runs) > 1 else ""
                yield Text("")
                yield Text(_map_title(chosen) + whose, style="bold")
                yield from lines
    if len(runs) > RUNS_SHOWN:
        yield Text(f"and maps of {len(runs) - RUNS_SHOWN} more runs in the other reports")


def _map_title(checks: Sequence[str]) -> str:
    return f"where {checks[0]} is broken" if len(checks) == 1 else f"where {len(checks)} checks are broken"


def _about(result: AuditResult) -> Iterator[Text]:
    yield Text("")
    if result.has_pair:
        yield Text(f"base {printable(result.base)}")
    for run in result.tuned:
        yield Text(f"tuned {printable(run)}")
    yield from _shortlist("not aligned", result.unaligned)
    yield from _shortlist("note", result.notes)


def _counts(result: AuditResult) -> Iterator[Text]:
    s = result.summary
    bounds = sum(v.kind in ("upper_bound", "lower_bound") for v in result.verdicts)
    counts = [
        f"{s.passed} hold",
        f"{s.failed} broken",
        f"{s.errors} cannot be judged",
        f"{s.skipped} skipped",
        *([f"{s.waived} waived"] if s.waived else []),
        *([f"{s.warned} broken that only warn"] if s.warned else []),
        *([f"{s.noted} noted"] if s.noted else []),
    ]
    settled = f"; {bounds} decided by a bound" if bounds else ""
    yield Text(f"{len(result.verdicts)} verdicts: {', '.join(counts)}{settled}")


def _answer(result: AuditResult, exit_code: int | None) -> Text:
    found = answer(result.verdicts)
    if found.closing:
        worst = found.closing[0]
        return Text(f"gate CLOSED, worst: {worst.check} at {printable(worst.subject)}{_by(worst)}", "bold red")
    if exit_code and found.is_open:
        return Text(f"gate CLOSED: pytest ends with code {exit_code}", "bold red")
    return (
        Text(open_words(result), "bold green")
        if found.is_open
        else Text(f"gate CLOSED: {printable(found.cause)}", "bold red")
    )


def _by(verdict: Verdict) -> str:
    if verdict.value is None:
        return ", which cannot be judged"
    return f", {margin_of(verdict)}"


def _shortlist(label: str, texts: Sequence[str]) -> Iterator[Text]:
    if texts:
        more = f"; and {len(texts) - 5} more" if len(texts) > 5 else ""
        yield Text(f"{label}: {'; '.join(map(printable, texts[:5]))}{more}")
