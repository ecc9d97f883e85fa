"""A new audit against a released one: a claim may hold and yet be worse than it was when the model went out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from ckptaudit.checkpoints import Checkpoint, fingerprint
from ckptaudit.errors import BaselineError, parameter, printable
from ckptaudit.judging.checks import Check
from ckptaudit.judging.plan import Released
from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics import METRICS
from ckptaudit.metrics.scales import badness, is_count
from ckptaudit.options import AUXILIARY, FACTOR
from ckptaudit.results.json_io import read_json
from ckptaudit.results.records import AuditResult, BaselineRecord


@dataclass(frozen=True)
class Baseline:
    """The released run's verdicts by check and subject, and how much worse than those a new one may be."""

    path: str
    tuned: str
    factor: float
    rows: Mapping[tuple[str, str], Verdict] = field(repr=False)

    def allowed(self, check: Check, subject: str) -> float | None:
        """The value past which a verdict is worse by more than the factor; None where nothing can be compared.

        A count is held to its limit alone: that a release changed twice as many entries says nothing
        about how good either is.
        """
        row = self.rows.get((check.id, subject))
        if row is None or row.value is None or self._silence(row, check.metric, check.sign):
            return None
        measure = badness(check.metric, at_most=check.at_most is not None, limit=check.limit)
        return measure.worsened(row.value, self.factor)

    def silence(self, verdict: Verdict) -> str:
        """Why a verdict cannot be compared, in words; empty where it can."""
        row = self.rows.get((verdict.check, verdict.subject))
        return self._silence(row, verdict.metric, verdict.sign)

    def _silence(self, row: Verdict | None, metric: str, sign: str) -> str:
        if is_count(metric):
            return "a count is held to its limit alone"
        if row is None:
            return "the released audit has no such verdict"
        if (row.metric or metric, row.sign or sign) != (metric, sign):
            return f"the released audit judged {row.metric} {row.sign}"
        if row.value is None:
            return f"the released audit has no value ({row.outcome})"
        return "" if row.kind == "exact" else "the released value is a bound; make that audit again in exact mode"

    def released(self, check: Check, subject: str) -> Released | None:
        """The value to be compared with, and what it allows; None where nothing can be compared."""
        row, allowed = self.rows.get((check.id, subject)), self.allowed(check, subject)
        if row is None or row.value is None or allowed is None:
            return None
        return Released(row.value, allowed, self.factor)

    @property
    def record(self) -> BaselineRecord:
        """What the result says about it."""
        return BaselineRecord(self.path, self.tuned, self.factor)

    def remarks(self, verdicts: Sequence[Verdict]) -> list[str]:
        """What could not be compared, in sentences, by reason; also what the released audit alone judged."""
        silent: dict[str, list[str]] = {}
        for v in verdicts:
            reason = self.silence(v) or ("" if v.value is not None else f"not judged here: {v.reason}")
            if reason and not is_count(v.metric):
                silent.setdefault(reason, []).append(f"{v.check}[{v.subject}]")
        given = {(v.check, v.subject) for v in verdicts}
        for key, row in self.rows.items():
            if key not in given and row.value is not None and not is_count(row.metric):
                silent.setdefault(_unasked(row), []).append(f"{row.check}[{row.subject}]")
        return [
            f"not compared with {printable(self.path)}: {printable(names[0])}"
            f"{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {printable(reason)}"
            for reason, names in silent.items()
        ]


def _unasked(row: Verdict) -> str:
    """Why a verdict of the released audit has no counterpart here, with the input that would bring one."""
    metric = METRICS.get(row.metric)
    needs = [f"{parameter(name)} {AUXILIARY[name].metavar}" for name in (metric.needs if metric else ())]
    given = f"; it needs {' and '.join(needs)}" if needs else ""
    return f"the released audit judged it, and this one does not ask for it{given}"


def load_baseline(path: Path, base: Checkpoint | None, *, factor: float = FACTOR) -> Baseline:
    """Read the JSON of an earlier audit of the same base; of any, or none, where rollouts alone are judged.

    Raises ReportError if there is no such file or it is no audit, BaselineError if it is of several runs or of
    another base.
    """
    refuse_factor(factor)
    result = read_json(path)
    if len(result.runs) != 1:
        raise BaselineError(
            f"{printable(path)}: an audit of {len(result.runs)} runs; make one of the released checkpoint alone."
        )
    if base is not None:
        _refuse_other_base(path, result, base)
    return Baseline(str(path), result.runs[0], factor, {(v.check, v.subject): v for v in result.verdicts})


def refuse_factor(factor: float) -> None:
    """Raise BaselineError for a factor by which nothing, or everything, would be much worse."""
    if not 1 <= factor < inf:
        raise BaselineError(f"{parameter('against_factor')} {factor:g}: a finite number of at least 1 is required.")


def _refuse_other_base(path: Path, result: AuditResult, base: Checkpoint) -> None:
    theirs = next((row for row in result.checkpoints if row.side == "base"), None)
    if theirs is None:
        raise BaselineError(f"{printable(path)}: does not say which base it is of; make the audit again.")
    ours = fingerprint(base)
    if theirs.fingerprint != ours:
        raise BaselineError(
            f"{printable(path)}: an audit against another base, {printable(theirs.path)} with fingerprint "
            f"{printable(theirs.fingerprint)}; {printable(base.path)} has {ours}."
        )
