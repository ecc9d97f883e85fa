"""A verdict that closes the gate, in words that fit on one screen."""

from __future__ import annotations

import textwrap

from ckptaudit.errors import printable
from ckptaudit.judging.checks import Check
from ckptaudit.judging.verdict import NOTHING_SELECTED, Ranked, Verdict
from ckptaudit.metrics.descriptions import description_of
from ckptaudit.report.appearance import bound_mark, number
from ckptaudit.report.escaping import log_line, log_lines
from ckptaudit.report.samples import sample_lines
from ckptaudit.results.records import CheckRecord

WIDTH = 100
SENTENCE_LENGTH = 440
"""Longest `in_one_line`; some releases of pytest shorten what is longer than 500 characters with its frame."""


def quantity(metric: str, value: float) -> str:
    """A value with its unit, where the unit says something."""
    known = description_of(metric)
    unit = known.unit if known else "1"
    return number(value) if unit == "1" else f"{number(value)} {unit}"


def compared(verdict: Verdict) -> str:
    """`0.0023, limit <= 0.001`: measured against limit, in one phrase."""
    limit = f"limit {verdict.sign} {number(verdict.limit)}"
    if verdict.effective_limit != verdict.limit:
        limit = f"{limit}, released run allows {verdict.sign} {number(verdict.effective_limit)}"
    if verdict.value is None:
        return f"not measured, {limit}"
    bound = bound_mark(verdict.kind, ("at most ", "at least "))
    return f"{bound}{quantity(verdict.metric, verdict.value)}, {limit}"


def in_one_line(verdict: Verdict) -> str:
    """Measured against limit, worst tensor and source in one line, for lists and headlines."""
    if verdict.value is None:
        text = f"cannot judge: {printable(verdict.reason)}; {compared(verdict)}"
    else:
        text = f"{compared(verdict)} ({verdict.metric} of {_shortened(verdict.subject)})"
    worst = f"; worst {_thing(verdict.metric)}{_shortened(verdict.worst)}" if verdict.worst else ""
    worst += f"; {_shortened(str(verdict.cause))}" if verdict.cause else ""
    line = f"{text}{worst}; source {_one_line(verdict.source)}"
    line = log_line(line)
    return line if len(line) <= SENTENCE_LENGTH else f"{line[: SENTENCE_LENGTH - 3]}..."


def _thing(metric: str) -> str:
    """What is ranked, where its name does not say it: steps are called so."""
    known = description_of(metric)
    return "" if known is not None and known.scope in ("rollouts", "probes") else "tensor "


def explain(verdict: Verdict, check: Check | CheckRecord) -> str:
    """The whole text: claim, measured against limit, worst and next-worst tensors, source, remedy."""
    if verdict.value is None:
        head = [("cannot judge", f"{printable(verdict.reason)}; {compared(verdict)}"), ("claim", check.claim)]
    else:
        measured = [("measured", _measured(verdict, check)), *_released(verdict)]
        head = [*measured, ("claim", check.claim), *_where(verdict)]
    moved = "" if verdict.limit_from.startswith("check in ") else verdict.limit_from
    head += [("limit from", moved), ("waiver", verdict.waiver)]
    rows = [*head, ("source", check.source), ("published", check.published), ("note", check.note)]
    mend = [("cause", str(verdict.cause or "")), ("remedy", remedy_of(verdict, check.remedy))]
    shown = [(f"sample {i}", line) for i, line in enumerate(sample_lines(verdict), start=1)]
    return log_lines("\n".join(_line(label, text) for label, text in (*rows, *shown, *mend) if text))


SEE_NAMES = (
    "Names of tensors are not read as this check expects: see them with `ckptaudit inspect PATH`, and add a rule "
    "for the architecture (docs/architectures.md), or leave the check out."
)


def remedy_of(verdict: Verdict, usual: str) -> str:
    """What to do about the cause that was found, else what the check says."""
    if verdict.reason == NOTHING_SELECTED:
        return SEE_NAMES
    return usual if verdict.cause is None else verdict.cause.remedy


def judged_as(check: Check | CheckRecord) -> str:
    """`normalized_spectral_shift, the worst of each layer`: what is compared with the limit."""
    known = description_of(check.metric)
    if known is not None and known.scope not in ("matrix", "runs"):
        return check.metric
    how = {
        "worst": "the worst",
        "mean": "the mean",
        "weighted_mean": "the parameter-weighted mean",
        "sum": "the sum",
    }
    return f"{check.metric}, {how[check.judge_by]} of {'the' if check.per == 'model' else 'each'} {check.per}"


def _measured(verdict: Verdict, check: Check | CheckRecord) -> str:
    how = {
        "worst": "worst of",
        "mean": "mean of",
        "weighted_mean": "parameter-weighted mean of",
        "sum": "sum over",
    }
    subject = printable(verdict.subject)
    known = description_of(check.metric)
    scope = known.scope if known else "matrix"
    if scope == "pair":
        return f"{compared(verdict)} ({verdict.metric})"
    if scope == "probes":
        return (
            f"{compared(verdict)} ({verdict.metric}, of {'each set' if check.per == 'probe_set' else 'all probes'})"
        )
    if scope == "rollouts":
        return f"{compared(verdict)} ({verdict.metric}, of the rollouts per {check.per})"
    if scope == "group":
        return f"{compared(verdict)} ({verdict.metric}, of {subject} as one)"
    return f"{compared(verdict)} ({verdict.metric}, {how[check.judge_by]} {subject})"


def _released(verdict: Verdict) -> list[tuple[str, str]]:
    """What the released run had, and what this one was allowed beside it."""
    if verdict.released is None or verdict.released_limit is None:
        return []
    allowed = f"allowed {verdict.sign} {number(verdict.released_limit)}"
    return [("released", f"{quantity(verdict.metric, verdict.released)}, {allowed}")]


def _where(verdict: Verdict) -> list[tuple[str, str]]:
    if not verdict.ranking:
        return [("tensors", printable(verdict.reason))]
    worst, *others = verdict.ranking
    if not _thing(verdict.metric):
        rows = [("where", verdict.reason), ("worst", _ranked(worst))]
        return rows + [("next worst" if i == 0 else "", _ranked(r)) for i, r in enumerate(others)]
    if worst.tensor != verdict.worst:  # of weights taken together, one contributes most
        return [
            ("most of it", printable(verdict.worst or "")),
            *([("remark", worst.remark)] if worst.remark else []),
        ]
    rows = [("worst tensor", _ranked(worst))]
    return rows + [("next worst" if i == 0 else "", _ranked(r)) for i, r in enumerate(others)]


def _ranked(ranked: Ranked) -> str:
    remark = f"   {ranked.remark}" if ranked.remark else ""
    return f"{number(ranked.value):>10}  {_shortened(ranked.tensor)}{remark}"


def _shortened(name: str) -> str:
    clean = printable(name)
    return clean if len(clean) <= 120 else f"{clean[:80]}...{clean[-30:]}"


def _line(label: str, text: str) -> str:
    if label in ("worst", "worst tensor", "next worst", ""):
        return f"{label:<14}{text}"
    return textwrap.fill(f"{label:<14}{_one_line(text)}", WIDTH, subsequent_indent=" " * 14, break_long_words=False)


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))
