"""The summary at the end of the terminal output: the broken claims, a row for each check, the map, the answer."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from typing import Literal

from rich.console import Console
from rich.text import Text

from ckptaudit.errors import printable
from ckptaudit.judging.verdict import Verdict
from ckptaudit.report.appearance import beyond, open_words
from ckptaudit.report.blocks import block_lines
from ckptaudit.report.coverage_text import coverage_lines
from ckptaudit.report.escaping import styled_line
from ckptaudit.report.heatmap import broken_checks, drawn_checks, grids
from ckptaudit.report.heatmap_text import heatmap_lines
from ckptaudit.report.rollouts_text import step_lines
from ckptaudit.report.runs import first_closed, run_lines
from ckptaudit.report.table import check_lines
from ckptaudit.report.unheeded import unheeded
from ckptaudit.results.gate import answer, by_check
from ckptaudit.results.records import AuditResult
from ckptaudit.results.summary import counts

RUNS_SHOWN = 4


def render_summary(
    result: AuditResult, *, width: int, colour: bool, verbosity: int = 0, exit_code: int | None = None
) -> str:
    """Blocks, tables, map and answer as text of the given width, with colour codes or without.

    `verbosity` is pytest's: at -1 only what does not hold is listed, at -2 nothing but the answer; from 1 on every
    subject is listed and every broken check has a map of its own. `exit_code` is pytest's, where it is known.
    """
    parts = [
        render_blocks(result, width=width, colour=colour, verbosity=verbosity),
        render_tables(result, width=width, colour=colour, verbosity=verbosity),
        render_answer(result, colour=colour, exit_code=exit_code),
    ]
    return "\n".join(part for part in parts if part)


def render_blocks(result: AuditResult, *, width: int, colour: bool, verbosity: int = 0) -> str:
    """Every check that closes the gate, with the claim, where it is broken, source and remedy; empty below -1."""
    if verbosity < -1:
        return ""
    return _rendered(block_lines(result, width, complete=verbosity > 0), colour=colour)


def render_tables(result: AuditResult, *, width: int, colour: bool, verbosity: int = 0) -> str:
    """A row for each check, the map, what was judged, and what is broken without closing the gate."""
    return _rendered(_lines(result, width, verbosity), colour=colour)


def render_answer(result: AuditResult, *, colour: bool, exit_code: int | None = None) -> str:
    """How many verdicts ended how, and the gate's answer: the last two lines."""
    return _rendered([Text(counts(result.verdicts)), _answer(result, exit_code)], colour=colour)


def _rendered(lines: Iterable[Text], *, colour: bool) -> str:
    stream = StringIO()
    system: Literal["standard"] | None = "standard" if colour else None
    # Lines come at their final width; the console only turns styles into codes.
    console = Console(file=stream, width=10_000, force_terminal=colour, color_system=system, no_color=not colour)
    for line in lines:
        console.print(styled_line(line), soft_wrap=True)
    return stream.getvalue().rstrip("\n")


def _lines(result: AuditResult, width: int, verbosity: int) -> Iterator[Text]:
    if verbosity > -2:
        yield from _tables(result, width, verbosity)
    if verbosity >= 0:
        yield from _over_steps(result, width)
        yield from _maps(result, width, apart=verbosity > 0)
        yield from _about(result)
        for line in coverage_lines(result):
            yield from (Text(part) for part in _wrapped(printable(line), width))
        for line in unheeded(result.verdicts):
            yield from (Text(part) for part in _wrapped(line, width))


def _tables(result: AuditResult, width: int, verbosity: int) -> Iterator[Text]:
    several = len(result.runs) > 1
    if several:
        yield from map(Text, run_lines(result, width))
        yield Text("")
    for title, groups in _groups(result, apart=several and verbosity > 0):
        own = [g for g in groups if verbosity >= 0 or _is_telling(g)]
        brief = [g for g in own if verbosity < 1 and _says_nothing(g)]
        if title and own:
            yield Text(title, style="bold")
        yield from check_lines([g for g in own if g not in brief], width)
        yield from _brief_lines(brief, width)


def _groups(result: AuditResult, *, apart: bool) -> Iterator[tuple[str, list[list[Verdict]]]]:
    """Verdicts by check, over all runs; `apart` for each run by itself, and at the end those about several."""
    if not apart:
        by_name: dict[str, list[Verdict]] = {}
        for verdict in result.verdicts:
            by_name.setdefault(verdict.check, []).append(verdict)
        yield "", list(by_name.values())
        return
    groups = by_check(result.verdicts)
    for run in result.runs:
        yield f"run {printable(run)}", [g for (tuned, _), g in groups.items() if tuned == run]
    yield "", [g for (tuned, _), g in groups.items() if tuned not in result.runs]


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
        kinds.setdefault("skipped" if skipped else "passed, nothing found", []).append(printable(group[0].check))
    for kind, names in kinds.items():
        yield from (Text(line) for line in _wrapped(f"{kind}: {', '.join(names)}", width))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 20), subsequent_indent="    ", break_on_hyphens=False)


def _over_steps(result: AuditResult, width: int) -> Iterator[Text]:
    lines = list(step_lines(result))
    if lines:
        yield Text("")
        yield Text("over the steps", style="bold")
    for words in lines:
        yield from map(Text, textwrap.wrap(words, max(width, 20), initial_indent="  ", subsequent_indent="      "))


def _maps(result: AuditResult, width: int, *, apart: bool) -> Iterator[Text]:
    runs = [run for run in result.runs if broken_checks(result, run)]
    for run in runs[:RUNS_SHOWN]:
        checks = broken_checks(result, run)
        for chosen in [[c] for c in checks] if apart else [checks]:
            # What holds elsewhere belongs on the map of all: it shows what was looked at.
            lines = heatmap_lines(grids(result, run, chosen if apart else drawn_checks(result, run)), width)
            if lines:
                whose = f" of {printable(run)}" if len(result.runs) > 1 else ""
                yield Text("")
                yield Text(_map_title(chosen) + whose, style="bold")
                yield from lines
    if len(runs) > RUNS_SHOWN:
        yield Text(f"and maps of {len(runs) - RUNS_SHOWN} more runs in the other reports")


def _map_title(checks: Sequence[str]) -> str:
    return f"where {checks[0]} failed" if len(checks) == 1 else f"where {len(checks)} checks failed"


def _about(result: AuditResult) -> Iterator[Text]:
    yield Text("")
    if result.has_pair:
        yield Text(f"base {printable(result.base)}")
    if len(result.tuned) == 1:
        yield Text(f"tuned {printable(result.tuned[0])}")
    yield from _shortlist("not aligned", result.unaligned)
    yield from _shortlist("note", result.notes)


def _answer(result: AuditResult, exit_code: int | None) -> Text:
    found = answer(result.verdicts)
    if found.closing:
        worst = found.closing[0]
        whose = f" for {first_closed(result)}" if len(result.runs) > 1 else ""
        said = f"gate CLOSED{whose}, worst: {worst.check} at {printable(worst.subject)}, {beyond(worst)}"
        return Text(said, "bold red")
    if exit_code and found.is_open:
        return Text(f"gate CLOSED: pytest ends with code {exit_code}", "bold red")
    return (
        Text(open_words(result), "bold green")
        if found.is_open
        else Text(f"gate CLOSED: {printable(found.cause)}", "bold red")
    )


def _shortlist(label: str, texts: Sequence[str]) -> Iterator[Text]:
    if texts:
        more = f"; and {len(texts) - 5} more" if len(texts) > 5 else ""
        yield Text(f"{label}: {'; '.join(map(printable, texts[:5]))}{more}")
