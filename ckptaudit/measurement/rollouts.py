"""Readings of a run's rollouts as measurements: one pass over the log for all that is wanted of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ckptaudit.errors import CkptAuditError, printable
from ckptaudit.measurement.jobs import Unit
from ckptaudit.metrics import Measurement
from ckptaudit.metrics.step_series import SeriesBuilder, StepNote, StepValue
from ckptaudit.rollouts.readings import Reading, step_of, step_subject
from ckptaudit.rollouts.run_log import RunLog

logger = logging.getLogger(__name__)

STEPS = "steps"
"""What a measurement with a series is about."""

NAMED = 3
"""How many samples or groups a measurement names."""

LONGEST = 80
"""Characters of such a name that are kept: names come from the log."""


ID = 1000
"""Characters of a name by which a sample can be looked up again."""


def measure_rollouts(
    log: RunLog, wanted: Sequence[str], unit: Unit, checkpoint_steps: Sequence[int] = ()
) -> list[Measurement]:
    """Every wanted metric: one series over the steps, and one number of the run ("run").

    A log that cannot be read to its end gives no number at all: every metric is there once, about the unit's own
    subject, without a value and with the reason.
    """
    try:
        return list(_measured(log.readings(wanted, checkpoint_steps), unit))
    except CkptAuditError as error:
        reason = error.sentence
    except Exception as error:
        logger.debug("rollouts could not be measured", exc_info=True)
        reason = f"{type(error).__name__}: {printable(error)[:300]}"
    return [_row(unit.subject, metric, None, unit, remark=reason) for metric in wanted]


def by_steps(measured: Iterable[Measurement]) -> Iterator[Measurement]:
    """The measurements with every series written out, a measurement for each step ("step 12")."""
    for m in measured:
        if m.series is None:
            yield m
            continue
        unit = Unit(m.tuned, m.tensor, "rollouts")
        for at in m.series:
            yield _row(step_subject(at.step), m.metric, at.value, unit, **_beside(at))


def _measured(readings: Iterable[Reading], unit: Unit) -> Iterator[Measurement]:
    series: dict[str, SeriesBuilder] = {}
    for reading in readings:
        step = step_of(reading.subject)
        if step is None:
            yield _row(reading.subject, reading.metric, reading.value, unit, **_beside(_facts(0, reading)))
        else:
            series.setdefault(reading.metric, SeriesBuilder()).add(_facts(step, reading))
    for metric in list(series):
        # Each is given up as it is built, so that no two copies of all stand side by side.
        yield _row(STEPS, metric, None, unit, series=series.pop(metric).built())


def _facts(step: int, reading: Reading) -> StepValue:
    estimated = reading.value is not None and not reading.low == reading.high == reading.value
    named = ", ".join(_shortened(name) for name in reading.worst[:NAMED])
    return StepValue(
        step=step,
        value=reading.value,
        low=reading.low if estimated else None,
        high=reading.high if estimated else None,
        standard_error=reading.standard_error,
        samples=reading.samples,
        note=StepNote(named, printable(reading.remark), tuple(n for n in reading.worst[:NAMED] if len(n) <= ID)),
    )


def _beside(at: StepValue) -> dict[str, Any]:
    """What a measurement says beside its value."""
    return {
        "worst": at.note.worst,
        "remark": at.note.remark,
        "method": "direct" if at.low is None else "sampled",
        "standard_error": at.standard_error,
        "samples": at.samples,
        "low": at.low,
        "high": at.high,
    }


def _row(subject: str, metric: str, value: float | None, unit: Unit, **facts: Any) -> Measurement:
    return Measurement(subject, None, "", (), metric, value, "exact", tuned=unit.run, **facts)


def _shortened(name: str) -> str:
    clean = printable(name)
    return clean if len(clean) <= LONGEST else f"{clean[:LONGEST]}..."
