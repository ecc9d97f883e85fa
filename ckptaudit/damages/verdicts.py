"""Damages to verdicts from elsewhere: answers that have become worse, and judges that do not agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import pstdev

from ckptaudit.behavior.evidence import Evidence
from ckptaudit.behavior.given_verdicts import GivenVerdict, GivenVerdicts
from ckptaudit.damages.behavior import DESCRIPTIONS, row_damage

__all__ = ["DESCRIPTIONS"]

CONTRARY = {"base": "tuned", "tuned": "base", "tie": "tie"}


@row_damage
def worse_verdicts(evidence: Evidence) -> Evidence:
    """Judges score the tuned answers three deviations lower, prefer the base's, and call the tuned ones unsafe."""
    scores = [float(row.value) for row in evidence.verdicts.rows if row.kind == "score"]
    fall = 3 * ((pstdev(scores) if scores else 0.0) or 1.0)

    def worse(row: GivenVerdict) -> GivenVerdict:
        if row.kind == "choice":
            return row._replace(value="base")
        if row.model != "tuned":
            return row
        return row._replace(value=True if row.kind == "unsafe" else float(row.value) - fall)

    return _with_rows(evidence, worse)


@row_damage
def contrary_judges(evidence: Evidence) -> Evidence:
    """Every judge but the first says the opposite of what the first one says."""
    first = evidence.verdicts.rows[0].judge if evidence.verdicts.rows else ""
    said = {(r.id, r.kind, r.model, r.sample): r.value for r in evidence.verdicts.rows if r.judge == first}

    def contrary(row: GivenVerdict) -> GivenVerdict:
        own = said.get((row.id, row.kind, row.model, row.sample))
        return row if row.judge == first or own is None else row._replace(value=_opposite(own))

    return _with_rows(evidence, contrary)


def _opposite(value: float | bool | str) -> float | bool | str:
    if isinstance(value, str):
        return CONTRARY[value]
    return not value if isinstance(value, bool) else -value


def _with_rows(evidence: Evidence, change: Callable[[GivenVerdict], GivenVerdict]) -> Evidence:
    return replace(evidence, verdicts=GivenVerdicts(tuple(map(change, evidence.verdicts.rows))))
