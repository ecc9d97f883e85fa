"""What the program prints: the one way to standard output for lines that may hold text of somebody's file."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from ckptaudit.report.escaping import log_line


def show(*lines: str) -> None:
    """Print lines, in each of them everything escaped that could drive a terminal or a job's log."""
    show_all(lines)


def show_all(lines: Iterable[str]) -> None:
    """The same of lines that are still to be made: nothing is printed where making one fails."""
    print("\n".join(map(log_line, lines)))


def complain(line: str) -> None:
    """One such line on standard error."""
    print(log_line(line), file=sys.stderr)
