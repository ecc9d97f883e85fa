"""A check file as a pytest collector, and each verdict as an item."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest
from _pytest._code.code import ReprEntryNative, ReprExceptionInfo, ReprFileLocation, ReprTraceback
from msgspec.structs import replace

from ckptaudit.errors import CkptAuditError, printable
from ckptaudit.judging.check_files import CheckFile
from ckptaudit.judging.judge import Verdict, undecidable
from ckptaudit.judging.plan import Request
from ckptaudit.pipeline.session import AuditSession
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


class CheckCollector(pytest.File):
    """The checks of one TOML file, over the subjects of the pair."""

    file: CheckFile
    session_of_audit: AuditSession

    def collect(self) -> Iterable[pytest.Item]:
        """One item for each verdict, checks in the file's order."""
        for request in self.session_of_audit.requests(self.file):
            # The id is given in full: pytest parses it then, so that `--lf` knows the item again.
            nodeid = f"{self.nodeid}::{request.name}"
            yield CheckItem.from_parent(self, name=request.name, nodeid=nodeid, request=request)


class CheckItem(pytest.Item):
    """One verdict to be given."""

    def __init__(self, *, request: Request, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.request = request
        self.verdict: Verdict | None = None
        self.add_marker("audit")
        self.add_marker(f"audit_{request.check.per}")
        self.extra_keyword_matches.update({request.check.metric, *request.check.roles})

    @property
    def collector(self) -> CheckCollector:
        """The file this item was read from."""
        assert isinstance(self.parent, CheckCollector)  # collect() above is the only maker
        return self.parent

    def setup(self) -> None:
        """Measure and decide: a verdict that cannot be given is an error of the set-up, not a failure."""
        request = self.request
        try:
            verdict = self.collector.session_of_audit.verdict(request)
        except CkptAuditError as error:
            verdict = undecidable(request.check, request.subject, request.run.path, str(error), request.limits)
        self.verdict = replace(verdict, test=self.nodeid)
        self.user_properties += case_properties(self.verdict)
        if self.verdict.outcome == "error":
            raise CannotJudge(explain(self.verdict, request.check))
        if self.verdict.outcome == "skipped":
            pytest.skip(printable(self.verdict.reason))

    def runtest(self) -> None:
        """Fail if the claim is broken; one that is forgiven fails as expected, one that only warns passes."""
        assert self.verdict is not None  # set by setup
        if self.verdict.outcome == "waived":
            pytest.xfail(printable(self.verdict.reason))
        if self.verdict.outcome == "failed":
            text = explain(self.verdict, self.request.check)
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
