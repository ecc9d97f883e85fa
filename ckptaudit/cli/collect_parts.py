"""`ckptaudit collect PLAN PART...`: the verdicts of an audit whose measurements several machines took."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ckptaudit.cli.output import complain
from ckptaudit.errors import printable

if TYPE_CHECKING:
    from ckptaudit.cli.gate_outputs import Outputs
    from ckptaudit.measurement.shard_plan import ShardPlan
    from ckptaudit.results.records import AuditResult

HELP = "judge what the part files of a plan hold, and write the reports of the audit"


def is_meant(words: Sequence[str]) -> bool:
    """Whether these words name a plan, and so ask for this command rather than for gradients of a model."""
    first = next((word for word in words if not word.startswith("-")), "")
    return first.endswith(".json")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The plan, the parts, and the reports to write."""
    from ckptaudit.cli.gate_options import add_reports
    from ckptaudit.cli.gate_request import ArgumentGroup

    parser.add_argument("plan", type=Path, help="a file that `ckptaudit plan` wrote")
    parser.add_argument("parts", type=Path, nargs="*", metavar="PART", help="files that `ckptaudit measure` wrote")
    add_reports(ArgumentGroup(parser))
    parser.add_argument("--junitxml", type=Path, metavar="FILE", help="write JUnit XML, as the gate does")


def run(options: argparse.Namespace) -> int:
    """Judge, report, and answer: 0 where the gate is open, 1 where it is shut, 4 where nothing was judged."""
    from ckptaudit.cli.gate_outputs import Outputs
    from ckptaudit.cli.gate_request import value_of
    from ckptaudit.foreign_files.outputs import Output
    from ckptaudit.measurement.shard_plan import read_plan
    from ckptaudit.pipeline.shard_plans import planned_places
    from ckptaudit.results.gate import answer

    xml: Path | None = options.junitxml
    outputs = Outputs(value_of(options), [] if xml is None else [Output(xml, "--junitxml")])
    outputs.refuse_what_is_read([options.plan, *options.parts])
    plan = read_plan(options.plan)
    outputs.refuse_what_is_read(planned_places(plan))
    result = _result(options, outputs, plan)
    problems = [*outputs.write(lambda: result), *_junit(result, options.junitxml)]
    print(_summary(result))
    print("".join(f"{line}\n" for line in outputs.announced()), end="")
    given = answer(result.verdicts)
    problems += [f"{given.cause}."] if given.cause else []
    for sentence in problems:
        complain(f"ERROR: {sentence}")
    return 1 if given.closing else 4 if problems else 0


def _result(options: argparse.Namespace, outputs: Outputs, plan: ShardPlan) -> AuditResult:
    from ckptaudit.cli.gate_spelling import option
    from ckptaudit.pipeline.collecting import collected_result

    words = ("ckptaudit", "collect", str(options.plan), *map(str, options.parts))
    return collected_result(
        plan,
        [part.absolute() for part in options.parts],
        command=words,
        spelling=option,
        with_spectra=outputs.shows_spectra,
        digest=options.audit_digest,
    )


def _junit(result: AuditResult, path: Path | None) -> list[str]:
    from ckptaudit.report.junit import write_junit

    if path is None:
        return []
    try:
        write_junit(result, path)
    except OSError as error:
        return [f"{printable(path)}: cannot be written ({printable(error.strerror or error)})."]
    return []


def _summary(result: AuditResult) -> str:
    from ckptaudit.report.terminal import render_summary
    from ckptaudit.report.unheeded import unheeded

    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    text = render_summary(result, width=shutil.get_terminal_size().columns, colour=colour)
    return "\n".join([*text.splitlines(), *unheeded(result.verdicts)])
