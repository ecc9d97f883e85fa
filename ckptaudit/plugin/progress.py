"""A progress display for long measurement that keeps out of pytest's own lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_AFTER_S, LOG_EVERY_S = 5.0, 30.0
"""Seconds until the first line, and between later ones, where the output is a log and cannot be redrawn."""

Watch = Callable[[int, int], None]

COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


@dataclass(frozen=True, slots=True)
class Display:
    """Who is told how many tensors of how many have been measured, and how many tokens of probes have been run."""

    tensors: Watch
    tokens: Watch


@contextmanager
def progress_of(config: pytest.Config) -> Iterator[Display]:
    """A progress display: a bar on a terminal, gone when done; a line now and then in a log; nothing with `-q`."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is None or capture is None or reporter.verbosity < 0:
        yield Display(_nothing, _nothing)
    elif not reporter.isatty:
        yield Display(Log(reporter, "measured", "tensors"), Log(reporter, "probes: ran", "tokens"))
    else:
        with capture.global_and_fixture_disabled(), Progress(*COLUMNS, console=Console(), transient=True) as bar:
            yield Display(_Bar(bar, "measuring"), _Bar(bar, "running probes"))


def _nothing(done: int, total: int) -> None:
    pass


class _Bar:
    """A bar that is there from the first thing that is done on."""

    def __init__(self, bar: Progress, words: str) -> None:
        self._bar = bar
        self._task = bar.add_task(words, total=None, visible=False)

    def __call__(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total, visible=True)


def log_of(config: pytest.Config) -> Log | None:
    """A line now and then between tests, on a terminal as in a log; None with `-q`."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return None if reporter is None or reporter.verbosity < 0 else Log(reporter)


class Log:
    """A line now and then, where the output cannot be redrawn."""

    def __init__(self, reporter: pytest.TerminalReporter, verb: str = "measured", things: str = "tensors") -> None:
        self._reporter = reporter
        self._verb, self._things = verb, things
        self._started = time.monotonic()
        self._next = self._started + LOG_AFTER_S

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not done:  # a count that begins anew
            self._started, self._next = now, max(now + LOG_AFTER_S, self._next)
        elif now > self._next:
            self._next = now + LOG_EVERY_S
            self._reporter.ensure_newline()
            left = _left(done, total, now - self._started)
            self._reporter.write_line(f"ckptaudit: {self._verb} {done:,} of {total:,} {self._things}{left}")


def _left(done: int, total: int, seconds: float) -> str:
    """How long it took so far and what is left at that pace."""
    if done >= total:
        return f" in {_duration(seconds)}"
    return f" in {_duration(seconds)}, about {_duration(seconds / done * (total - done))} left"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
