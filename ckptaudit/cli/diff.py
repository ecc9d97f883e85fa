"""`ckptaudit diff`: what changed from one audit to another."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ckptaudit.cli.output import show_all
from ckptaudit.errors import ReportError

HELP = "compare two audits by their JSON"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Two results, and how much a number may move."""
    parser.add_argument("a", type=Path, help="the earlier result")
    parser.add_argument("b", type=Path, help="the later result")
    parser.add_argument("--factor", type=float, default=2.0, help="numbers that moved by more are listed (2)")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")


def run(options: argparse.Namespace) -> int:
    """Print the comparison; 1 if a verdict ended worse, else 0. Raises CkptAuditError."""
    from ckptaudit.report.difference_text import difference_lines
    from ckptaudit.results.diff import compare
    from ckptaudit.results.json_io import read_json

    if not 1 < options.factor < float("inf"):
        raise ReportError(f"--factor {options.factor:g}: a number above 1 is needed.")
    difference = compare(
        read_json(options.a), read_json(options.b), names=(str(options.a), str(options.b)), factor=options.factor
    )
    if options.json:
        import msgspec

        sys.stdout.write(msgspec.json.format(msgspec.json.encode(difference), indent=1).decode() + "\n")
    else:
        show_all(difference_lines(difference))
    return int(difference.worse)
