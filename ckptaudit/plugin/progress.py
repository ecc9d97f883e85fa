"""A progress display for long measurement that keeps out of pytest's own lines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import pytest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

LOG_EVERY_S = 30.0
"""Seconds between lines where the output is a log and cannot be redrawn."""


def measuring(units: Sequence[T], config: pytest.Config) -> Iterator[T]:
    """The units one by one: a bar on a terminal, gone when done; a line now and then in a log."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is None or capture is None or reporter.verbosity < 0:
        yield from units
    elif not reporter.isatty:
        yield from _logged(units, reporter)
    else:
        with capture.global_and_fixture_disabled():
            yield from _drawn(units)


def _logged(units: Sequence[T], reporter: pytest.TerminalReporter) -> Iterator[T]:
    told = time.monotonic()
    for done, unit in enumerate(units):
        if time.monotonic() - told > LOG_EVERY_S:
            told = time.monotonic()
            reporter.write_line(f"ckptaudit: measured {done} of {len(units)} layers and outer weights")
        yield unit


def _drawn(units: Sequence[T]) -> Iterator[T]:
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(), transient=True) as progress:
        yield from progress.track(units)
