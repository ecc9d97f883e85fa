"""A result as a notebook shows it: the answer, the checks that failed, and the map."""

from __future__ import annotations

from html import escape

from rich.text import Text

from ckptaudit.report.appearance import beyond, word
from ckptaudit.report.escaping import block
from ckptaudit.report.heatmap import broken_checks, drawn_checks, grids
from ckptaudit.report.heatmap_text import heatmap_lines
from ckptaudit.report.terminal import render_answer
from ckptaudit.results.gate import answer
from ckptaudit.results.records import AuditResult

WIDTH = 120
CHECKS_SHOWN, RUNS_SHOWN = 20, 4
COLOURS = {
    "green": "#00702f",
    "yellow": "#8a6100",
    "red": "#b84200",
    "bold red": "#b84200",
    "bold magenta": "#8a3d78",
}


def notebook_html(result: AuditResult) -> str:
    """Markup without scripts or styles of its own; all names in it are escaped."""
    counts, said = render_answer(result, colour=False).split("\n", 1)
    parts = [f"<p><strong>{_safe(said)}</strong><br>{_safe(counts)}</p>", _checks(result)]
    for run in [run for run in result.runs if broken_checks(result, run)][:RUNS_SHOWN]:
        lines = heatmap_lines(grids(result, run, drawn_checks(result, run)), WIDTH)
        if lines:
            name = f"<p>{_safe(run)}</p>" if len(result.runs) > 1 else ""
            parts.append(f"{name}<pre>{chr(10).join(map(_line, lines))}</pre>")
    return f"<div>{''.join(parts)}</div>"


def _checks(result: AuditResult) -> str:
    worst = list({v.check: v for v in reversed(answer(result.verdicts).closing)}.values())[::-1]
    rows = [(word(v), v.check, beyond(v), v.subject) for v in worst[:CHECKS_SHOWN]]
    if not rows:
        return ""
    body = "".join(f"<tr>{''.join(f'<td>{_safe(cell)}</td>' for cell in row)}</tr>" for row in rows)
    more = f"<p>and {len(worst) - CHECKS_SHOWN} more checks</p>" if len(worst) > CHECKS_SHOWN else ""
    head = "".join(f"<th>{name}</th>" for name in ("verdict", "check", "margin", "worst at"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _line(line: Text) -> str:
    """A line of the map with its colours."""
    plain, told, at = line.plain, "", 0
    for span in line.spans:
        told += _safe(plain[at : span.start])
        colour = COLOURS.get(str(span.style), "inherit")
        told += f'<span style="color:{colour}">{_safe(plain[span.start : span.end])}</span>'
        at = span.end
    return told + _safe(plain[at:])


def _safe(text: str) -> str:
    return escape(block(text))
