"""Readings of a run's rollouts as measurements: one pass over the log for all that is wanted of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ckptaudit.errors import CkptAuditError, printable
from ckptaudit.measurement.jobs import Unit
from ckptaudit.metrics import Measurement
from ckptaudit.rollouts.readings import Reading
from ckptaudit.rollouts.run_log import RunLog

logger = logging.getLogger(__name__)

NAMED = 3
"""How many samples or groups a measurement names."""

LONGEST = 80
"""Characters of such a name that are kept: names come from the log."""


def measure_rollouts(
    log: RunLog, wanted: Sequence[str], unit: Unit, checkpoint_steps: Sequence[int] = ()
) -> list[Measurement]:
    """Every wanted metric, of each step ("step 12") and of the run ("run").

    A log that cannot be read to its end gives no number at all: every metric is there once, about the unit's own
    subject, without a value and with the reason.
    """
    try:
        return [_measurement(reading, unit) for reading in log.readings(wanted, checkpoint_steps)]
    except CkptAuditError as error:
        reason = error.sentence
    except Exception as error:
        logger.debug("rollouts could not be measured", exc_info=True)
        reason = f"{type(error).__name__}: {printable(error)[:300]}"
    return [_row(unit.subject, metric, None, unit, remark=reason) for metric in wanted]


def _measurement(reading: Reading, unit: Unit) -> Measurement:
    estimated = reading.value is not None and not reading.low == reading.high == reading.value
    return _row(
        reading.subject,
        reading.metric,
        reading.value,
        unit,
        worst=", ".join(_shortened(name) for name in reading.worst[:NAMED]),
        remark=printable(reading.remark),
        method="sampled" if estimated else "direct",
        standard_error=reading.standard_error,
        samples=reading.samples,
        low=reading.low if estimated else None,
        high=reading.high if estimated else None,
    )


def _row(subject: str, metric: str, value: float | None, unit: Unit, **facts: object) -> Measurement:
    return Measurement(subject, None, "", (), metric, value, "exact", tuned=unit.run, **facts)  # type: ignore[arg-type]


def _shortened(name: str) -> str:
    clean = printable(name)
    return clean if len(clean) <= LONGEST else f"{clean[:LONGEST]}..."
