"""How much of a run's log was judged: steps and checks, and what would let the others be judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from ckptaudit.judging.rollouts import RUN
from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics import Measurement
from ckptaudit.metrics.descriptions import scope_of
from ckptaudit.metrics.step_series import StepSeries
from ckptaudit.results.gate import JUDGED
from ckptaudit.rollouts.distributions import Distributions
from ckptaudit.rollouts.readings import step_subject
from ckptaudit.rollouts.run_log import RunLog


class Unjudged(msgspec.Struct, frozen=True):
    """Checks that could not be judged for one reason, which says what would record or declare what they need."""

    reason: str
    checks: tuple[str, ...]


class StepCurve(msgspec.Struct, frozen=True, omit_defaults=True):
    """A metric at each of the record's steps; None where a step has no value.

    `low` and `high` are the ends of the intervals, None where a value is exact, and empty where all are.
    """

    metric: str
    values: tuple[float | None, ...]
    samples: tuple[int, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()


class RunValue(msgspec.Struct, frozen=True, omit_defaults=True):
    """A metric over the run; `remark` says why it has no value, or what belongs beside it."""

    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    samples: int = 0
    remark: str = ""


class RolloutsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The log of a run: who wrote it, its steps, and how many of the checks of rollouts could be judged.

    `tuned` is the run that its verdicts are about; without a pair it is the log's own path. `first_step` and
    `last_step` are None where nothing was measured of any step. `curves` hold every metric that was measured of
    steps, in the order of `step_numbers`, and `over_run` those of the run.
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
    step_numbers: tuple[int, ...] = ()
    curves: tuple[StepCurve, ...] = ()
    over_run: tuple[RunValue, ...] = ()
    distributions: Distributions | None = None
    """Where a page was asked for too."""


def rollouts_record(
    run: str, log: RunLog, verdicts: Sequence[Verdict], measured: Sequence[Measurement]
) -> RolloutsRecord:
    """What the verdicts on a run's rollouts say of its log; `measured` are the measurements they rest on."""
    own = [v for v in verdicts if v.tuned == run and scope_of(v.metric) == "rollouts"]
    steps = sorted({at.step for m in measured if m.series is not None for at in m.series})
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
        step_numbers=tuple(steps),
        curves=tuple(_curve(m.metric, m.series, steps) for m in measured if m.series is not None),
        over_run=tuple(
            RunValue(m.metric, m.value, m.low, m.high, m.samples or 0, m.remark)
            for m in measured
            if m.series is None and m.tensor == RUN
        ),
    )


def measurements_of(logs: Iterable[RolloutsRecord]) -> Iterator[Measurement]:
    """What was measured of each step of the logs ("step 12"), and of their runs ("run"), in rows."""
    for log in logs:
        for curve in log.curves:
            for step, value in zip(log.step_numbers, curve.values, strict=True):
                yield Measurement(step_subject(step), None, "", (), curve.metric, value, "exact", tuned=log.tuned)
        for own in log.over_run:
            yield Measurement(RUN, None, "", (), own.metric, own.value, "exact", tuned=log.tuned)


def _curve(metric: str, series: StepSeries, steps: Sequence[int]) -> StepCurve:
    at = {value.step: value for value in series}
    rows = [at.get(step) for step in steps]
    estimated = any(row is not None and row.low is not None for row in rows)
    return StepCurve(
        metric=metric,
        values=tuple(row.value if row else None for row in rows),
        samples=tuple(row.samples if row else 0 for row in rows),
        low=tuple(row.low if row else None for row in rows) if estimated else (),
        high=tuple(row.high if row else None for row in rows) if estimated else (),
    )


def _unjudged(verdicts: Sequence[Verdict]) -> tuple[Unjudged, ...]:
    """By reason, in the order of the checks."""
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.outcome not in JUDGED:
            reasons.setdefault(verdict.reason, []).append(verdict.check)
    return tuple(Unjudged(reason, tuple(checks)) for reason, checks in reasons.items())
