"""How much of a run's log was judged: steps and checks, and what would let the others be judged."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics import METRICS, Measurement
from ckptaudit.results.gate import JUDGED
from ckptaudit.rollouts.run_log import RunLog

STEP = "step "
"""How the names of steps begin."""


class Unjudged(msgspec.Struct, frozen=True):
    """Checks that could not be judged for one reason, which says what would record or declare what they need."""

    reason: str
    checks: tuple[str, ...]


class RolloutsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The log of a run: who wrote it, its steps, and how many of the checks of rollouts could be judged.

    `tuned` is the run that its verdicts are about; without a pair it is the log's own path. `first_step` and
    `last_step` are None where nothing was measured of any step.
    """

    tuned: str
    path: str
    trainer: str
    steps: int
    first_step: int | None
    last_step: int | None
    checks: int
    judged: int
    unjudged: tuple[Unjudged, ...] = ()


def rollouts_record(
    run: str, log: RunLog, verdicts: Sequence[Verdict], measured: Sequence[Measurement]
) -> RolloutsRecord:
    """What the verdicts on a run's rollouts say of its log; `measured` are the measurements they rest on."""
    own = [v for v in verdicts if v.tuned == run and v.metric in METRICS and METRICS[v.metric].scope == "rollouts"]
    steps = sorted({int(m.tensor.removeprefix(STEP)) for m in measured if m.tensor.startswith(STEP)})
    return RolloutsRecord(
        tuned=run,
        path=log.path,
        trainer=log.table.trainer,
        steps=len(steps),
        first_step=steps[0] if steps else None,
        last_step=steps[-1] if steps else None,
        checks=len(own),
        judged=sum(v.outcome in JUDGED for v in own),
        unjudged=_unjudged(own),
    )


def _unjudged(verdicts: Sequence[Verdict]) -> tuple[Unjudged, ...]:
    """By reason, in the order of the checks."""
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.outcome not in JUDGED:
            reasons.setdefault(verdict.reason, []).append(verdict.check)
    return tuple(Unjudged(reason, tuple(checks)) for reason, checks in reasons.items())
