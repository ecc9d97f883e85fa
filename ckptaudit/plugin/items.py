"""A check file as a pytest collector, and each verdict as an item."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from ckptaudit.checks import CheckFile
from ckptaudit.errors import CkptAuditError, printable
from ckptaudit.report.failure import compared, explain
from ckptaudit.session import AuditSession, Request
from ckptaudit.verdict import Verdict, undecidable

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
            name = item_name(request)
            # The id is given in full: pytest parses it then, so that `--lf` knows the item again.
            yield CheckItem.from_parent(self, name=name, nodeid=f"{self.nodeid}::{name}", request=request)


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
            self.verdict = self.collector.session_of_audit.verdict(request)
        except CkptAuditError as error:
            self.verdict = undecidable(request.check, request.subject, request.run.path, str(error), request.limits)
        self.user_properties += _properties(self.verdict)
        if self.verdict.outcome == "error":
            raise CannotJudge(explain(self.verdict, request.check))
        if self.verdict.outcome == "skipped":
            pytest.skip(self.verdict.reason)

    def runtest(self) -> None:
        """Fail if the claim is broken; one that is forgiven fails as expected, one that only warns passes."""
        assert self.verdict is not None  # set by setup
        text = explain(self.verdict, self.request.check)
        if self.verdict.closes:
            raise ClaimBroken(text)
        if self.verdict.outcome == "waived":
            pytest.xfail(printable(self.verdict.reason))
        if self.verdict.outcome == "failed":
            self.add_report_section("call", UNHEEDED, text)

    def repr_failure(self, excinfo: ExceptionInfo[BaseException], style: Any = None) -> str | TerminalRepr:
        """The verdict in words; a traceback only for what is no verdict at all."""
        if isinstance(excinfo.value, ClaimBroken | CannotJudge):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """The heading over a failure: the item's name, and the number that decided."""
        verdict = f": {compared(self.verdict)}" if self.verdict else ""
        return self.path, None, f"{self.name}{verdict}"

    @property
    def location(self) -> tuple[str, int | None, str]:
        """The id's own file name; where the check file happens to be installed is of no interest."""
        return self.nodeid.partition("::")[0], None, self.name


def item_name(request: Request) -> str:
    """`spectral-drift[layers.3]`; control characters in a tensor's name are escaped."""
    return f"{request.check.id}[{printable(request.id)}]"


def _properties(verdict: Verdict) -> Iterator[tuple[str, object]]:
    yield "metric", verdict.metric
    yield "value", "" if verdict.value is None else repr(verdict.value)
    yield "kind", verdict.kind or ""
    yield "limit", f"{verdict.sign} {verdict.limit!r}"
    yield "worst_tensor", printable(verdict.worst or "")
    yield "source", verdict.source
    yield "severity", verdict.severity
    yield "limit_from", verdict.limit_from
    if verdict.waiver:
        yield "waiver", verdict.waiver
    if verdict.released is not None:
        yield "released", repr(verdict.released)
        yield "released_limit", f"{verdict.sign} {verdict.released_limit!r}"
