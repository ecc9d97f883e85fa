"""A progress display for long measurement that keeps out of pytest's own lines."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_EVERY_S = 30.0
"""Seconds between lines where the output is a log and cannot be redrawn."""

Steps = Iterable[tuple[int, int]]
"""So many of so many done, again and again."""


def show_progress(steps: Steps, config: pytest.Config) -> None:
    """Go through the steps to the end: with a bar on a terminal, gone when done; a line now and then in a log."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is None or capture is None or reporter.verbosity < 0:
        for _ in steps:
            pass
    elif not reporter.isatty:
        _log(steps, reporter)
    else:
        with capture.global_and_fixture_disabled():
            _draw(steps)


def _log(steps: Steps, reporter: pytest.TerminalReporter) -> None:
    told = time.monotonic()
    for done, total in steps:
        if time.monotonic() - told > LOG_EVERY_S:
            told = time.monotonic()
            reporter.write_line(f"ckptaudit: measured {done} of {total} tensors")


def _draw(steps: Steps) -> None:
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(), transient=True) as progress:
        bar = progress.add_task("measuring", total=None)
        for done, total in steps:
            progress.update(bar, completed=done, total=total)
