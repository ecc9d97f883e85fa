"""A check file as a pytest collector, and each verdict as an item."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from _pytest._code.code import ReprEntryNative, ReprExceptionInfo, ReprFileLocation, ReprTraceback
from msgspec.structs import replace

from ckptaudit.errors import printable
from ckptaudit.judging.plan import PlannedVerdict
from ckptaudit.judging.verdict import Verdict
from ckptaudit.report.failure import compared, explain, in_one_line
from ckptaudit.report.junit import case_properties

if TYPE_CHECKING:
    from _pytest._code.code import ExceptionInfo, TerminalRepr


UNHEEDED = "verdict"
"""The report section with the words of a broken claim that does not close the gate."""


class ClaimBroken(Exception):
    """The measured value lies outside the check's limit."""


class CannotJudge(Exception):
    """The check's quantity could not be computed; never the same as a broken claim."""


Judge = Callable[[PlannedVerdict], Verdict]


class CheckCollector(pytest.File):
    """The checks of one TOML file, over the subjects of the pair."""

    plan: Callable[[], Sequence[PlannedVerdict]]
    judge: Judge

    def collect(self) -> Iterable[pytest.Item]:
        """One item for each verdict, checks in the file's order."""
        for planned in self.plan():
            # The id is given in full: pytest parses it then, so that `--lf` knows the item again.
            nodeid = f"{self.nodeid}::{planned.name}"
            yield CheckItem.from_parent(self, name=planned.name, nodeid=nodeid, planned=planned)


class CheckItem(pytest.Item):
    """One verdict to be given."""

    def __init__(self, *, planned: PlannedVerdict, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.planned = planned
        self.verdict: Verdict | None = None
        self.add_marker("audit")
        self.add_marker(f"audit_{planned.check.per}")
        self.extra_keyword_matches.update({planned.check.metric, *planned.check.roles})

    @property
    def collector(self) -> CheckCollector:
        """The file this item was read from."""
        assert isinstance(self.parent, CheckCollector)  # collect() above is the only maker
        return self.parent

    def setup(self) -> None:
        """Measure and decide: a verdict that cannot be given is an error of the set-up, not a failure."""
        self.verdict = replace(self.collector.judge(self.planned), test=self.nodeid)
        self.user_properties += case_properties(self.verdict)
        if self.verdict.outcome == "error":
            raise CannotJudge(explain(self.verdict, self.planned.check))
        if self.verdict.outcome == "skipped":
            pytest.skip(printable(self.verdict.reason))

    def runtest(self) -> None:
        """Fail if the claim is broken; one that is forgiven fails as expected, one that only warns passes."""
        assert self.verdict is not None  # set by setup
        if self.verdict.outcome == "waived" and self.config.pluginmanager.hasplugin("skipping"):
            pytest.xfail(printable(self.verdict.reason))
        if self.verdict.outcome == "failed":
            text = explain(self.verdict, self.planned.check)
            if self.verdict.closes:
                raise ClaimBroken(text)
            self.add_report_section("call", UNHEEDED, text)

    def repr_failure(self, excinfo: ExceptionInfo[BaseException], style: Any = None) -> str | TerminalRepr:
        """The verdict in words; a traceback only for what is no verdict at all."""
        if self.verdict is not None and isinstance(excinfo.value, ClaimBroken | CannotJudge):
            return _in_words(self.verdict, str(excinfo.value), self.nodeid)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """The heading over a failure: the item's name, and the number that decided."""
        verdict = f": {compared(self.verdict)}" if self.verdict else ""
        return self.path, None, f"{self.name}{verdict}"

    @property
    def location(self) -> tuple[str, int | None, str]:
        """The id's own file name; where the check file happens to be installed is of no interest."""
        return self.nodeid.partition("::")[0], None, self.name


def _in_words(verdict: Verdict, text: str, nodeid: str) -> ReprExceptionInfo:
    """The text as pytest reports it, headed by one line for short summaries and JUnit messages.

    These are pytest's own records, since no others come back whole from the workers of pytest-xdist.
    """
    crash = ReprFileLocation(nodeid, 1, in_one_line(verdict))
    entry = ReprEntryNative([f"{text}\n"])
    return ReprExceptionInfo(
        reprtraceback=ReprTraceback(reprentries=[entry], extraline=None, style="native"), reprcrash=crash
    )
