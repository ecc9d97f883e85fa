"""What an audit found, as one record. Every report renders it; none computes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ckptaudit.metrics.measurement import Kind, Measurement
from ckptaudit.verdict import Outcome, Verdict

SCHEMA = "ckptaudit/1"


class Summary(msgspec.Struct, frozen=True):
    """How many verdicts ended how."""

    passed: int
    failed: int
    skipped: int
    errors: int

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> Summary:
        """Count the outcomes."""
        outcomes = [verdict.outcome for verdict in verdicts]
        return cls(*(outcomes.count(o) for o in ("passed", "failed", "skipped", "error")))


class MeasurementRow(msgspec.Struct, frozen=True):
    """A measurement as the JSON file has it."""

    tuned: str
    tensor: str
    layer: int | None
    role: str
    shape: tuple[int, ...]
    metric: str
    value: float | None
    kind: Kind


class VerdictRow(msgspec.Struct, frozen=True):
    """A verdict as the JSON file has it."""

    tuned: str
    check: str
    subject: str
    outcome: Outcome
    worst: str | None
    value: float | None
    kind: Kind | None
    limit: float
    source: str


class AuditResult(msgspec.Struct, frozen=True, kw_only=True):
    """The whole audit of a base and one or more tuned checkpoints."""

    schema: str = SCHEMA
    base: str
    tuned: tuple[str, ...]
    summary: Summary
    unaligned: tuple[str, ...]
    measurements: tuple[MeasurementRow, ...]
    verdicts: tuple[VerdictRow, ...]

    @property
    def passed(self) -> bool:
        """Whether something was judged and nothing failed or could not be judged."""
        return self.summary.passed > 0 and not self.summary.failed and not self.summary.errors


def measurement_row(tuned: str, m: Measurement) -> MeasurementRow:
    """A measurement with the run it belongs to."""
    return MeasurementRow(tuned, m.tensor, m.layer, m.role, m.shape, m.metric, m.value, m.kind)


def verdict_row(v: Verdict) -> VerdictRow:
    """A verdict without what only the failure text needs."""
    return VerdictRow(v.tuned, v.check, v.subject, v.outcome, v.worst, v.value, v.kind, v.limit, v.source)
