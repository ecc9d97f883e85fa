"""What the gate decided, in the words and order of the page: one sentence, then one line for each check."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ckptaudit.errors import printable
from ckptaudit.judging.verdict import Outcome, Verdict, times_over
from ckptaudit.report.appearance import beyond, bound_mark, first_few, margin_of, number, word
from ckptaudit.results.gate import GRAVITY, NOTHING_JUDGED, answer, gravest, gravity
from ckptaudit.results.records import AuditResult, CheckRecord

DRAWN = 10.0
"""A bar is gone at this many times inside the limit, and full at as many beyond it, or at the farthest."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One subject in the strip of a check; `height` is 0 to 1, half at the limit."""

    subject: str
    look: str
    word: str
    height: float


@dataclass(frozen=True, slots=True)
class Line:
    """A check over a run: its gravest verdict, and where the others stand."""

    check: CheckRecord | None
    worst: Verdict
    verdicts: tuple[Verdict, ...]

    @property
    def id(self) -> str:
        """The check's id."""
        return printable(self.worst.check)

    @property
    def outcome(self) -> Outcome:
        """The gravest outcome."""
        return self.worst.outcome

    @property
    def look(self) -> str:
        """The outcome as it is drawn: `noted` for a broken claim that does not close the gate."""
        return _look(self.worst)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing was found where nothing may be, or nothing is there: worth a short row."""
        nothing = all(v.outcome == "passed" and v.value == v.limit == 0 for v in self.verdicts)
        return nothing or all(v.outcome == "skipped" for v in self.verdicts)

    @property
    def closes(self) -> bool:
        """Whether it keeps the gate shut."""
        return any(v.closes for v in self.verdicts)

    @property
    def word(self) -> str:
        """The outcome in words; a broken claim that does not close the gate says so."""
        return word(self.worst)

    @property
    def share(self) -> str:
        """`3 of 28` verdicts ended so; empty where there is one."""
        same = sum(v.outcome == self.outcome for v in self.verdicts)
        return f"{same} of {len(self.verdicts)}" if len(self.verdicts) > 1 else ""

    @property
    def value(self) -> str:
        """The deciding value, a bound marked as one."""
        mark = bound_mark(self.worst.kind, ("≤ ", "≥ "))
        return "none" if self.worst.value is None else f"{mark}{number(self.worst.value)}"

    @property
    def limit(self) -> str:
        """The limit with its direction."""
        return _bound(self.worst)

    @property
    def margin(self) -> str:
        """How far beyond the limit or inside it, as a factor."""
        return margin_of(self.worst) or ("not measured" if self.worst.value is None else "")

    @property
    def where(self) -> str:
        """The deciding tensor, or the subject if none decided."""
        return printable(self.worst.worst or self.worst.subject)

    @property
    def reason(self) -> str:
        """Why it could not be judged, was skipped, or what was found."""
        return printable(self.worst.reason)

    @property
    def bars(self) -> tuple[Bar, ...]:
        """The strip, subject by subject in the order of the model."""
        full = max((_times(v) for v in self.verdicts if math.isfinite(_times(v))), default=DRAWN)
        return tuple(
            Bar(printable(v.subject), _look(v), word(v), _height(v, max(full, DRAWN))) for v in self.verdicts
        )

    @property
    def strip_text(self) -> str:
        """The strip in words."""
        counts = Counter(map(word, sorted(self.verdicts, key=lambda v: GRAVITY.index(v.outcome))))
        said = ", ".join(f"{count} {end}" for end, count in counts.items())
        broken = [printable(v.subject) for v in self.verdicts if v.outcome in ("failed", "error")]
        return f"{len(self.verdicts)} subjects: {said}" + (f"; {first_few(broken)}" if broken else "")

    @property
    def broken_subjects(self) -> str:
        """Where the claim is broken, in full."""
        return ", ".join(printable(v.subject) for v in self.verdicts if v.outcome == "failed")


def lines_of(result: AuditResult, run: str) -> tuple[Line, ...]:
    """One line for each check of a run, the gravest and farthest beyond its limit first."""
    rows = {row.id: row for row in result.checks}
    groups: dict[str, list[Verdict]] = {}
    for verdict in result.verdicts:
        if verdict.tuned == run:
            groups.setdefault(verdict.check, []).append(verdict)
    lines = [Line(rows.get(check), gravest(group), tuple(group)) for check, group in groups.items()]
    return tuple(sorted(lines, key=lambda line: gravity(line.worst)))


def sentence(lines: Sequence[Line]) -> str:
    """Open or closed, how many broken, the worst by factor, and where."""
    verdicts = [v for line in lines for v in line.verdicts]
    closing = [line for line in lines if line.closes]
    if not closing:
        return _open(lines, verdicts)
    broken = [line for line in closing if line.outcome == "failed"]
    blind = [line for line in lines if any(v.outcome == "error" for v in line.verdicts)]
    parts = []
    if broken:
        where = f" in {printable(broken[0].worst.subject)}" if broken[0].worst.subject != "model" else ""
        parts.append(
            f"{len(broken)} of {len(lines)} checks failed; "
            f"the worst is {broken[0].id}, {beyond(broken[0].worst)}{where}"
        )
    if blind:
        parts.append(f"{len(blind)} {_check(len(blind))} could not be judged ({first_few([b.id for b in blind])})")
    return f"{'; '.join(parts)}."


def _open(lines: Sequence[Line], verdicts: Sequence[Verdict]) -> str:
    cause = answer(verdicts).cause
    if cause:
        return "Nothing was judged: every check was skipped." if cause == NOTHING_JUDGED else f"{cause}."
    holding = [line for line in lines if line.outcome == "passed" and margin_of(line.worst)]
    nearest = f"; nearest to its limit is {holding[0].id}, {holding[0].margin}" if holding else ""
    waived = sum(v.outcome == "waived" for v in verdicts)
    warned = [line for line in lines if _only_warns(line.worst)]
    also = f"; {waived} waived" if waived else ""
    also += (
        f"; {len(warned)} {_check(len(warned))} only warn ({first_few([w.id for w in warned])})" if warned else ""
    )
    return f"{sum(v.outcome == 'passed' for v in verdicts)} of {len(verdicts)} results passed{nearest}{also}."


def _bound(verdict: Verdict) -> str:
    return f"{ {'<=': '≤', '>=': '≥'}.get(verdict.sign, '') } {number(verdict.limit)}".strip()


def _only_warns(verdict: Verdict) -> bool:
    return verdict.outcome == "failed" and verdict.severity == "warn"


def _look(verdict: Verdict) -> str:
    return "noted" if verdict.outcome == "failed" and not verdict.closes else verdict.outcome


def _times(verdict: Verdict) -> float:
    return times_over(verdict.value or 0.0, verdict.effective_limit, verdict.sign)


def _height(verdict: Verdict, full: float) -> float:
    """From 0 to 1, half at the limit; logarithmic, and full for the farthest beyond it."""
    if verdict.value is None:
        return 0.5 if verdict.outcome == "error" else 0.0
    over = _times(verdict)
    if over <= 0 or math.isinf(over):
        return 0.04 if over <= 0 else 1.0
    return min(1.0, max(0.04, 0.5 + 0.5 * math.log(over) / math.log(full if over > 1 else DRAWN)))


def _check(count: int) -> str:
    return "check" if count == 1 else "checks"
