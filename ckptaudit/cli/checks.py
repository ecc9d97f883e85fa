"""`ckptaudit checks`: every check with its limit and source."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ckptaudit.errors import printable

HELP = "list the checks with their limits and sources"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Check files."""
    parser.add_argument("file", nargs="*", type=Path, help="check files; default: the bundled ones")


def run(options: argparse.Namespace) -> int:
    """Print them. Raises CkptAuditError."""
    print("\n".join(_lines(options.file)))
    return 0


def _lines(files: Sequence[Path]) -> list[str]:
    from ckptaudit.judging.check_files import load_checks
    from ckptaudit.judging.profiles import bundled_check_files

    lines: list[str] = []
    for path in files or bundled_check_files():
        lines.append(f"{printable(path.name)}")
        for check in load_checks(path).checks:
            scope = f"{', '.join(check.roles)} per {check.per}, {check.judge_by.replace('_', ' ')}"
            lines += [
                f"  {check.id}: {check.metric} {check.sign} {check.limit:g}   ({scope})",
                f"      {check.claim}",
                f"      source: {check.source}",
            ]
        lines.append("")
    return lines[:-1]
