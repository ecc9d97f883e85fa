"""What GitHub Actions shows of an audit: annotations in the log, and the step summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ckptaudit.errors import ReportError, printable
from ckptaudit.judging.verdict import Verdict
from ckptaudit.report.escaping import github_data, github_property
from ckptaudit.report.failure import in_one_line
from ckptaudit.report.markdown import LIMIT, markdown
from ckptaudit.results.gate import by_check, gravest, gravity
from ckptaudit.results.records import AuditResult

AT_MOST = 10
"""GitHub shows no more annotations of a step."""

LEVELS = {"gate": "error", "warn": "warning", "info": "notice"}


def announce(result: AuditResult, environment: Mapping[str, str]) -> list[str]:
    """On a runner of GitHub's: append the step summary, and give the lines to print. Elsewhere nothing."""
    if environment.get("GITHUB_ACTIONS") != "true":
        return []
    try:
        append_summary(result, environment)
    except ReportError as error:
        return [*annotation_lines(result), f"::warning::{github_data(str(error))}"]
    return list(annotation_lines(result))


def append_summary(result: AuditResult, environment: Mapping[str, str]) -> bool:
    """Append the page to the file that GITHUB_STEP_SUMMARY names; False if it names none. Raises ReportError."""
    name = environment.get("GITHUB_STEP_SUMMARY")
    if not name:
        return False
    path = Path(name)
    try:
        taken = path.stat().st_size if path.exists() else 0
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{markdown(result, max(LIMIT - taken - 2, 0))}\n")
    except OSError as error:
        raise ReportError(f"{printable(name)}: the step summary cannot be written ({printable(error)}).") from None
    return True


def annotation_lines(result: AuditResult) -> Iterator[str]:
    """A line for each check that is broken or could not be judged, worst first, ten at most."""
    groups = [g for g in by_check(result.verdicts).values() if gravest(g).outcome in ("failed", "error")]
    for group in sorted(groups, key=lambda g: gravity(gravest(g)))[:AT_MOST]:
        yield _annotation(group, several=len(result.runs) > 1)


def _annotation(group: Sequence[Verdict], *, several: bool) -> str:
    worst = gravest(group)
    level = "error" if worst.closes else LEVELS[worst.severity]
    ended = "cannot be judged" if worst.outcome == "error" else "broken"
    counted = sum(v.outcome == worst.outcome for v in group)
    run = f" in {printable(worst.tuned)}" if several else ""
    title = f"{worst.check} {ended}{run}, {counted} of {len(group)}"
    return f"::{level} title={github_property(title)}::{github_data(in_one_line(worst))}"
