"""Which limits hold for a measurement, read off a result alone: its checks, its verdicts, its guards."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

from ckptaudit.judging.verdict import Verdict, times_over
from ckptaudit.metrics import Measurement
from ckptaudit.report.places import covers, subject_of
from ckptaudit.results.records import AuditResult, CheckRecord


@dataclass(frozen=True)
class RunLimits:
    """The checks of one run, and how its measurements stand against them."""

    result: AuditResult
    run: str

    def judged(
        self, m: Measurement, checks: Collection[str] | None = None
    ) -> Iterator[tuple[CheckRecord, Verdict]]:
        """Each check that judges the measurement, with its verdict; of these checks alone, if any are named."""
        for check in self._by_metric.get(m.metric, ()):
            if checks is None or check.id in checks:
                verdict = self._verdicts.get((check.id, _subject(check, m)))
                if verdict is not None and _is_covered(check, m, verdict) and self._admits(check, m.tensor):
                    yield check, verdict

    def beyond(self, m: Measurement, verdict: Verdict) -> float | None:
        """How many times the value lies beyond its effective limit, moved ones included; None without a value."""
        if m.value is None or not math.isfinite(m.value):
            return None
        return times_over(m.value, verdict.limit_of(m.tensor), verdict.sign)

    def is_unsettled(self, m: Measurement, verdict: Verdict) -> bool:
        """Whether all that is known is a bound beyond the limit: the number may lie on either side of it."""
        safe = "upper_bound" if verdict.sign == "<=" else "lower_bound"
        if m.kind != safe:
            return False
        times = self.beyond(m, verdict)
        return times is not None and times > 1

    @cached_property
    def _by_metric(self) -> dict[str, list[CheckRecord]]:
        found: dict[str, list[CheckRecord]] = {}
        for check in self.result.checks:
            found.setdefault(check.metric, []).append(check)
        return found

    @cached_property
    def _verdicts(self) -> dict[tuple[str, str], Verdict]:
        return {(v.check, v.subject): v for v in self.result.verdicts if v.tuned == self.run}

    @cached_property
    def _guards(self) -> dict[tuple[str, str], float | None]:
        wanted = {c.only_where.metric for c in self.result.checks if c.only_where is not None}
        own = (m for m in self.result.measurements if m.metric in wanted and m.tuned == self.run)
        return {(m.metric, m.tensor): m.value for m in own}

    def _admits(self, check: CheckRecord, tensor: str) -> bool:
        guard = check.only_where
        if guard is None:
            return True
        value = self._guards.get((guard.metric, tensor))
        return value is None or value >= guard.at_least


def _subject(check: CheckRecord, m: Measurement) -> str:
    if check.per == "model":
        return "model"
    return m.tensor if check.per == "matrix" else subject_of(m)


def _is_covered(check: CheckRecord, m: Measurement, verdict: Verdict) -> bool:
    if check.roles:
        return covers(check, m)
    # A file of an earlier release does not say which roles the check is about; its worst tensors it names.
    return any(ranked.tensor == m.tensor for ranked in verdict.ranking)
