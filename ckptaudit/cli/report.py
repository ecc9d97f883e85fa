"""`ckptaudit report`: every report from the JSON of an audit, without measuring again."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ckptaudit.errors import ReportError, printable

if TYPE_CHECKING:
    from ckptaudit.results.records import AuditResult

WRITERS = {
    "junit": "junit.write_junit",
    "junit_strict": "junit.write_strict_junit",
    "html": "html.write_html",
    "markdown": "markdown.write_markdown",
    "sarif": "sarif.write_sarif",
    "model_card": "model_card.write_model_card",
    "badge": "badge.write_badge",
    "parquet": "parquet.write_parquet",
    "tensorboard": "tensorboard.log_to_tensorboard",
    "mlflow": "mlflow.log_to_mlflow",
    "wandb": "wandb.log_to_wandb",
    "trackio": "trackio.log_to_trackio",
}
"""By option, the function of ckptaudit.report that takes the result and the option's value."""

FILES = ("junit", "junit_strict", "html", "markdown", "sarif", "model_card", "badge", "parquet")
"""Those that write one file, which takes the place of an earlier one."""

HELP = "make reports from the JSON of an audit"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The JSON, and where the reports go."""
    parser.add_argument("result", type=Path, help="a file that --audit-json wrote")
    add = parser.add_argument
    add("--junit", metavar="FILE", type=Path, help="JUnit XML, as --junitxml writes it")
    add("--junit-strict", metavar="FILE", type=Path, help="JUnit XML without properties of test cases")
    add("--html", metavar="FILE", type=Path, help="one page that opens offline")
    add("--markdown", metavar="FILE", type=Path, help="a page of Markdown")
    add("--sarif", metavar="FILE", type=Path, help="SARIF 2.1.0, for code scanning")
    add("--model-card", metavar="FILE", type=Path, help="a section of a README.md, between markers that stay")
    add("--badge", metavar="FILE", type=Path, help="a badge: .svg, or .json for a shields endpoint")
    add("--parquet", metavar="FILE", type=Path, help="the measurements as a table")
    add("--github", action="store_true", help="annotations, and the step summary where GITHUB_STEP_SUMMARY is set")
    add("--tensorboard", metavar="DIR", type=Path, help="event files for TensorBoard")
    add(
        "--mlflow",
        metavar="STORE",
        nargs="?",
        const="",
        help="MLflow runs: a URI or a folder (default: $MLFLOW_TRACKING_URI, else mlflow.db here)",
    )
    add("--wandb", metavar="PROJECT", nargs="?", const="ckptaudit", help="a W&B project (default: ckptaudit)")
    add("--trackio", metavar="PROJECT", nargs="?", const="ckptaudit", help="a Trackio project (default: ckptaudit)")


def run(options: argparse.Namespace) -> int:
    """Write what was asked for; print the summary if nothing was. Raises CkptAuditError."""
    from ckptaudit.foreign_files.outputs import Output, refuse_unwritable, refuse_what_is_read
    from ckptaudit.results.json_io import read_json

    asked = {name: given for name in WRITERS if (given := getattr(options, name)) is not None}
    outputs = [Output(given, f"--{name.replace('_', '-')}") for name, given in asked.items() if name in FILES]
    refuse_unwritable(outputs)
    refuse_what_is_read(outputs, [options.result])
    result = read_json(options.result)
    for name, given in asked.items():
        _write(result, name, given)
    if options.github:
        _github(result)
    if not asked and not options.github:
        _print(result)
    return 0


def _write(result: AuditResult, name: str, given: object) -> None:
    module, _, function = WRITERS[name].partition(".")
    try:
        getattr(import_module(f"ckptaudit.report.{module}"), function)(result, given)
    except OSError as error:
        option, why = name.replace("_", "-"), printable(error.strerror or error)
        raise ReportError(f"--{option} {printable(given)}: cannot be written ({why}).") from None


def _github(result: AuditResult) -> None:
    from ckptaudit.report.github import annotation_lines, append_summary

    if not append_summary(result, os.environ):
        print("GITHUB_STEP_SUMMARY is not set: no step summary is written", file=sys.stderr)
    for line in annotation_lines(result):
        print(line)


def _print(result: AuditResult) -> None:
    from ckptaudit.report.terminal import render_summary

    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(render_summary(result, width=shutil.get_terminal_size().columns, colour=colour))
