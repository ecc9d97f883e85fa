"""An audit's share of pytest's terminal output: a block for each broken check, the tables, and the answer last."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from ckptaudit.report.blocks import one_line_each
from ckptaudit.report.escaping import log_line
from ckptaudit.report.terminal import render_answer, render_blocks, render_tables
from ckptaudit.results.gate import answer
from ckptaudit.results.records import AuditResult

ENDINGS = ("failed", "error")
"""What pytest would print at length, test by test."""


class AuditOutput:
    """Writes what `result_of` gives, if any verdict was given; `announced` is told before the answer.

    `exit_code` turns pytest's into the one that the run will end with.
    """

    def __init__(
        self,
        config: pytest.Config,
        result_of: Callable[[], AuditResult | None],
        announced: Callable[[], list[str]],
        exit_code: Callable[[int], int],
    ) -> None:
        self.config, self._result_of, self._announced, self._exit_code = config, result_of, announced, exit_code
        self._hidden: dict[str, list[Any]] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int
    ) -> Generator[None, object, object]:
        """Print the broken claims in place of pytest's words about them; all else that pytest says; the answer."""
        result = self._result_of()
        if result is None:
            return (yield)
        if self.config.option.no_summary:
            outcome = yield
            for line in self._announced():
                terminalreporter.write_line(line)
            return outcome
        self._hide(terminalreporter)
        try:
            self._write_failures(terminalreporter, result)
            outcome = yield
        finally:
            terminalreporter.stats.update(self._hidden)
        answer = render_answer(result, colour=self._colour, exit_code=self._exit_code(int(exitstatus)))
        for line in (*self._announced(), *answer.splitlines()):
            terminalreporter.write_line(line)
        return outcome

    @pytest.hookimpl(tryfirst=True, specname="pytest_terminal_summary")
    def pytest_write_tables(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table of checks, where they broke, and how much was judged."""
        result = self._result_of()
        if result is None or self.config.option.no_summary:
            return
        if self._is_listed_by_pytest:
            # Its list of failures is printed by now, its short summary is not.
            terminalreporter.stats.update(self._hidden)
        if self._verbosity < 0 and self._style == "line":
            return
        width = terminalreporter._tw.fullwidth
        text = render_tables(result, width=width, colour=self._colour, verbosity=self._verbosity)
        if text:
            terminalreporter.write_sep("=", "checkpoint audit")
        for line in text.splitlines():
            terminalreporter.write_line(line)

    def _hide(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Set the reports of verdicts apart from pytest's lists; its counts at the end have them again."""
        stats = terminalreporter.stats
        self._hidden = {ending: stats.pop(ending) for ending in ENDINGS if ending in stats}
        for ending, reports in self._hidden.items():
            if others := [report for report in reports if getattr(report, "audit_verdict", None) is None]:
                stats[ending] = others

    def _write_failures(self, terminalreporter: pytest.TerminalReporter, result: AuditResult) -> None:
        if self._style == "no" or self._verbosity < -1 or not answer(result.verdicts).closing:
            return
        terminalreporter.write_sep("=", "FAILURES")
        if self._style == "line":
            text = "\n".join(map(log_line, one_line_each(result)))
        else:
            width = terminalreporter._tw.fullwidth
            text = render_blocks(result, width=width, colour=self._colour, verbosity=self._verbosity)
        for line in text.splitlines():
            terminalreporter.write_line(line)

    @property
    def _is_listed_by_pytest(self) -> bool:
        """Whether pytest's short summary lists every verdict: with -v, or where the command line says -r."""
        return self._verbosity > 0 or any(str(w).startswith("-r") for w in self.config.invocation_params.args)

    @property
    def _style(self) -> str:
        return str(self.config.option.tbstyle)

    @property
    def _verbosity(self) -> int:
        return int(self.config.get_verbosity())

    @property
    def _colour(self) -> bool:
        return bool(self.config.get_terminal_writer().hasmarkup)
