"""What an audit shows of behavior: for each run the probes that differ most, and divergence by position."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ckptaudit.behavior.shown import BehaviorExcerpt
from ckptaudit.metrics import Measurement


class BehaviorRecord(msgspec.Struct, frozen=True):
    """A run on the probes of one file; the numbers of its probe sets stand among the measurements."""

    tuned: str
    path: str
    excerpt: BehaviorExcerpt


def behavior_records(measured: Sequence[Measurement], path: str) -> tuple[BehaviorRecord, ...]:
    """One record for each run whose models could be run."""
    return tuple(BehaviorRecord(m.tuned, path, m.excerpt) for m in measured if m.excerpt is not None)
