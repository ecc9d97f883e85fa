"""Two audits side by side: which verdicts changed, which metrics moved, whether both are about the same base."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from statistics import median
from typing import Literal

import msgspec

from ckptaudit.judging.rollouts import RUN
from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics import Measurement
from ckptaudit.results.input_changes import input_changes
from ckptaudit.results.records import AuditResult

Turn = Literal["worse", "better", "changed"]

ORDER = ("passed", "skipped", "waived", "warned", "failed", "error", "not judged")
"""Outcomes from good to bad. What was judged and no longer is ranks last: nobody knows how it would end."""


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict that ended otherwise; `was` or `now` is "not judged" where one side has none."""

    check: str
    subject: str
    run: str
    was: str
    now: str
    turn: Turn
    value_was: float | None
    value_now: float | None
    limit_was: float | None
    limit_now: float | None


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """A metric of one matrix that is now `factor` times what it was: infinite where it was zero."""

    metric: str
    tensor: str
    run: str
    was: float
    now: float
    factor: float


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What two audits do not agree on; `remarks` say in words what keeps them from being comparable."""

    a: str
    b: str
    remarks: tuple[str, ...]
    changed: tuple[Changed, ...]
    moved: tuple[Moved, ...]
    limits_moved: tuple[str, ...]

    @property
    def worse(self) -> bool:
        """Whether any verdict of the second audit ended worse than in the first."""
        return any(c.turn == "worse" for c in self.changed)


def compare(
    a: AuditResult, b: AuditResult, *, names: tuple[str, str] = ("a", "b"), factor: float = 2.0
) -> Difference:
    """Compare verdict by verdict and number by number.

    Runs are matched by path, or by position where the paths differ and both audits have equally many.
    Numbers count as moved when they grew or shrank by more than `factor`; bounds are left out, since one
    bound may be looser than another without any change of what it bounds.
    """
    runs = _matched(a, b)
    changed = sorted(_changed(a, b, runs), key=lambda c: (c.turn != "worse", -ORDER.index(c.now)))
    moved = sorted(_moved(a, b, runs, factor), key=lambda m: -abs(_log(m.factor)))
    return Difference(
        a=names[0],
        b=names[1],
        remarks=tuple(_remarks(a, b, runs)),
        changed=tuple(changed),
        moved=tuple(moved),
        limits_moved=tuple(_limits_moved(a, b)),
    )


def _matched(a: AuditResult, b: AuditResult) -> dict[str, str]:
    """Runs of `a` with those of `b` they are held against."""
    same = {run: run for run in a.runs if run in b.runs}
    if not same and len(a.runs) == len(b.runs):
        return dict(zip(a.runs, b.runs, strict=True))
    return same


def _remarks(a: AuditResult, b: AuditResult, runs: Mapping[str, str]) -> Iterator[str]:
    prints = [{c.side: c.fingerprint for c in result.checkpoints} for result in (a, b)]
    bases = [p.get("base", "") for p in prints]
    if all(bases) and bases[0] != bases[1]:
        both = f"{a.base}: {bases[0]}, {b.base}: {bases[1]}"
        yield f"the bases differ ({both}): the numbers are about different updates"
    elif a.has_pair != b.has_pair:
        yield f"only the {'first' if a.has_pair else 'second'} is about weights: of the other only rollouts compare"
    elif a.has_pair and not all(bases):
        yield "one of the files does not tell its base's fingerprint: whether the bases are one is not known"
    if not runs:
        yield f"no run of {', '.join(a.runs)} is among {', '.join(b.runs)}: nothing is compared"
    for side, result in (("first", a), ("second", b)):
        alone = [r for r in result.runs if r not in (runs if result is a else runs.values())]
        if runs and alone:
            yield f"only in the {side}: {', '.join(alone)}"
    profiles = [r.about.profile if r.about else "" for r in (a, b)]
    if profiles[0] != profiles[1]:
        yield f"the profiles differ: {profiles[0] or 'given files'}, then {profiles[1] or 'given files'}"
    same = {run for run, held in runs.items() if run == held}
    yield from input_changes(*([r for r in result.inputs if r.tuned in ("", *same)] for result in (a, b)))


def _changed(a: AuditResult, b: AuditResult, runs: Mapping[str, str]) -> Iterator[Changed]:
    before = {(runs[v.tuned], v.check, v.subject): v for v in a.verdicts if v.tuned in runs}
    after = {(v.tuned, v.check, v.subject): v for v in b.verdicts if v.tuned in runs.values()}
    for key in dict.fromkeys((*before, *after)):
        was, now = before.get(key), after.get(key)
        words = _ended(was), _ended(now)
        if words[0] != words[1]:
            yield Changed(
                run=key[0],
                check=key[1],
                subject=key[2],
                was=words[0],
                now=words[1],
                turn=_turn(*words),
                value_was=was.value if was else None,
                value_now=now.value if now else None,
                limit_was=was.limit if was else None,
                limit_now=now.limit if now else None,
            )


def _ended(verdict: Verdict | None) -> str:
    if verdict is None:
        return "not judged"
    return "warned" if verdict.outcome == "failed" and not verdict.closes else verdict.outcome


def _turn(was: str, now: str) -> Turn:
    if was == "not judged":
        return "worse" if now in ("failed", "error") else "changed"
    return "worse" if ORDER.index(now) > ORDER.index(was) else "better"


def _moved(a: AuditResult, b: AuditResult, runs: Mapping[str, str], factor: float) -> Iterator[Moved]:
    before = {(runs[m.tuned], m.tensor, m.metric): m.value for m in _exact(_numbers(a)) if m.tuned in runs}
    for m in _exact(_numbers(b)):
        was = before.get((m.tuned, m.tensor, m.metric))
        if was is None or m.value is None or was == m.value:
            continue
        grown = _grown(was, m.value)
        if abs(_log(grown)) > math.log(factor):
            yield Moved(metric=m.metric, tensor=m.tensor, run=m.tuned, was=was, now=m.value, factor=grown)


def _numbers(result: AuditResult) -> Iterator[Measurement]:
    """Of weights every number, of rollouts those of the run and each metric's median over the steps."""
    yield from result.measurements
    for log in result.rollouts:
        for own in log.over_run:
            yield Measurement(RUN, None, "", (), own.metric, own.value, "exact", tuned=log.tuned)
        for curve in log.curves:
            known = [value for value in curve.values if value is not None]
            middle = median(known) if known else None
            yield Measurement("median of steps", None, "", (), curve.metric, middle, "exact", tuned=log.tuned)


def _exact(rows: Iterable[Measurement]) -> Iterator[Measurement]:
    return (m for m in rows if m.kind == "exact" and m.value is not None)


def _grown(was: float, now: float) -> float:
    """`now / was`; infinite from zero, or where the sign changed, for no factor says that."""
    return now / was if was and now / was >= 0 else math.inf


def _log(factor: float) -> float:
    return math.log(factor) if 0 < factor < math.inf else math.inf


def _limits_moved(a: AuditResult, b: AuditResult) -> Iterator[str]:
    before = {check.id: check for check in a.checks}
    for check in b.checks:
        was = before.get(check.id)
        if was is not None and (was.limit, was.sign) != (check.limit, check.sign):
            yield f"{check.id}: {was.sign} {was.limit:g}, then {check.sign} {check.limit:g}"
