"""A result to one HTML file. Strangers chose its names and paths: they are escaped, and no script but ours runs."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ckptaudit.atomic_write import write_text
from ckptaudit.errors import printable
from ckptaudit.report.appearance import SYMBOLS, WORDS, beyond, margin_of, number
from ckptaudit.report.coverage_text import coverage_lines
from ckptaudit.report.escaping import block
from ckptaudit.report.html.behavior import behavior_views
from ckptaudit.report.html.cells import Names, grids_of
from ckptaudit.report.html.lines import Line, lines_of, sentence
from ckptaudit.report.html.placing import REGIMES, Likeness, Placed, likeness, placed
from ckptaudit.report.html.rollouts import log_views
from ckptaudit.report.runs import RunRow, by_run, first_shown, run_rows
from ckptaudit.report.steps import step_curves
from ckptaudit.results.gate import answer
from ckptaudit.results.records import AuditResult, CheckRecord, SpectrumRecord
from ckptaudit.results.summary import counts

HERE = Path(__file__).parent
STYLES = ("page.css", "rollouts.css", "behavior.css")
SCRIPTS = ("grid.js", "charts.js", "page.js")
CHARTS = HERE / "vendor" / "echarts.common.min.js"
LISTED = 500
"""How many unaligned tensors the page names; the JSON has them all."""


@dataclass(frozen=True, slots=True)
class RunView:
    """One tuned checkpoint on the page."""

    path: str
    opened: bool
    sentence: str
    lines: tuple[Line, ...]
    placed: tuple[Placed, ...]
    likeness: Likeness
    row: RunRow


def write_html(result: AuditResult, path: Path) -> None:
    """Write the page to `path`, complete or not at all. Raises OSError."""
    write_text(path, render_html(result))


def render_html(result: AuditResult) -> str:
    """The page, from the result alone."""
    alone, rows = by_run(result), run_rows(result)
    row_of = {row.path: row for row in rows}
    runs = tuple(_run_view(own, row_of[run]) for run, own in alone.items())
    place = {run: position for position, run in enumerate(alone)}
    script = Markup("\n".join((HERE / name).read_text("utf-8") for name in SCRIPTS))
    style = Markup("\n".join((HERE / name).read_text("utf-8") for name in STYLES))
    charts = Markup(CHARTS.read_text("utf-8").strip())
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            result=result,
            runs=runs,
            opened=result.passed,
            regimes=REGIMES,
            mapped={m.metric for m in result.measurements},
            listed=LISTED,
            counts=counts(result.verdicts),
            order=[place[row.path] for row in rows],
            trajectories=[row for row in result.trajectories if step_curves(result, row)],
            coverage=list(coverage_lines(result)),
            logs=log_views(result),
            behavior=behavior_views(result),
            data=_embedded(_data(result, alone, runs)),
            charts=charts,
            script=script,
            style=style,
            policy=_policy(scripts=(charts, script), style=style),
        )
    )


def _run_view(own: AuditResult, row: RunRow) -> RunView:
    lines, rows = lines_of(own, row.path), placed(own, row.path)
    is_open = answer(own.verdicts).is_open
    return RunView(printable(row.path), is_open, sentence(lines), lines, rows, likeness(rows), row)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_seen,
    )
    environment.filters |= {
        "printable": printable,
        "number": number,
        "margin": margin_of,
        "breakable": _breakable,
        "beyond": beyond,
    }
    environment.globals |= {"symbols": SYMBOLS, "words": WORDS}
    return environment


def _seen(value: object) -> object:
    """What a place of the template shows: text with nothing unseen in it; what is markup already, as it is."""
    return block(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _breakable(name: str) -> Markup:
    """A name that may wrap behind its dots, slashes and underscores, and reads and copies as it was."""
    return Markup(re.sub(r"([._/])", r"\1<wbr>", str(escape(block(name)))))


def _policy(*, scripts: tuple[str, ...], style: str) -> str:
    """Nothing may be fetched and only these very scripts run, whatever a name smuggles into the page."""
    allowed = " ".join(_digest(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_digest(style)}; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _data(result: AuditResult, alone: Mapping[str, AuditResult], runs: tuple[RunView, ...]) -> dict[str, object]:
    names = Names()
    views = [
        {
            "path": view.path,
            "grids": grids_of(own, run, names),
            "verdicts": _verdicts(own),
            "spectra": [_spectrum(row) for row in own.spectra],
            "placed": [_placed(row) for row in view.placed],
            "first": next((line.worst.metric for line in view.lines), ""),
        }
        for (run, own), view in zip(alone.items(), runs, strict=True)
    ]
    checks = {row.id: _check(row) for row in result.checks}
    return {
        "runs": views,
        "names": names.listed(),
        "checks": checks,
        "symbols": SYMBOLS,
        "words": WORDS,
        "steps": _steps(result),
        "first": _first(result),
    }


def _first(result: AuditResult) -> int:
    """The run that is shown at first: the gravest for which the gate is closed."""
    return result.runs.index(first_shown(result)) if result.runs else 0


def _steps(result: AuditResult) -> list[dict[str, object]]:
    found = [(row, step_curves(result, row)) for row in result.trajectories]
    return [{"name": row.name, "counted": row.counted, "curves": curves} for row, curves in found if curves]


def _verdicts(own: AuditResult) -> dict[str, dict[str, tuple[object, ...]]]:
    found: dict[str, dict[str, tuple[object, ...]]] = {}
    for v in own.verdicts:
        row = (
            v.outcome,
            v.value,
            v.kind,
            v.sign,
            v.limit,
            margin_of(v) or ("not measured" if v.value is None else ""),
            printable(v.reason),
        )
        found.setdefault(v.check, {})[printable(v.subject)] = row
    return found


def _check(row: CheckRecord) -> dict[str, object]:
    return {"claim": row.claim, "metric": row.metric, "judge_by": row.judge_by, "remedy": row.remedy}


def _placed(row: Placed) -> dict[str, object]:
    quantity = row.quantity
    return {
        "name": quantity.name,
        "scale": quantity.scale,
        "regimes": row.regimes,
        "value": row.value,
        "bound": row.is_bound,
        "words": row.words,
    }


def _spectrum(row: SpectrumRecord) -> dict[str, object]:
    both = zip(row.base_singular_values, row.tuned_singular_values, strict=True)
    return {
        "tensor": printable(row.tensor),
        "shape": row.shape,
        "k": row.k,
        "gap": row.gap,
        "ranks": row.ranks,
        "base": row.base_singular_values,
        "tuned": row.tuned_singular_values,
        # Taken before the numbers are shortened: the drift of a gentle run is in the sixth digit.
        "shift": [abs(after - before) for before, after in both],
        "angleRanks": row.angle_ranks,
        "left": row.left_angles,
        "right": row.right_angles,
    }


def _embedded(data: dict[str, object]) -> Markup:
    """JSON that cannot end the element it stands in, whatever it says."""
    text = msgspec.json.encode(_shortened(msgspec.to_builtins(data))).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _shortened(value: object) -> object:
    """Every number to six digits: a page is read, the JSON file is computed with. Texts with nothing unseen."""
    if isinstance(value, str):
        return block(value)
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _shortened(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(inner) for inner in value]
    return value
