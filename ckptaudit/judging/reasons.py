"""Why a check had nothing to judge by, or cannot be judged, in words; and what makes a number doubtful."""

from __future__ import annotations

from collections.abc import Sequence

from ckptaudit.judging.checks import Check
from ckptaudit.metrics import Measurement

DEGENERATE_GAP = 0.01
"""Below this relative gap at k the top-k subspace is as good as arbitrary, and an angle to it says little."""


def guarded(check: Check) -> str:
    """That the check's guard admits nothing."""
    guard = check.only_where
    assert guard is not None  # without a guard nothing is left out
    return f"too little to judge by: no tensor here has {guard.metric} >= {guard.at_least:g}"


def damaged_base(own: Sequence[Measurement], measured: Sequence[Measurement]) -> tuple[str, str] | None:
    """The weight whose base holds what is no number, against which nothing can be held; and the fault in words."""
    names = {m.tensor for m in own}
    counts = (m for m in measured if m.metric == "base_nonfinite_entries" and m.tensor in names)
    found = next((m for m in counts if m.value), None)
    if found is None:
        return None
    return found.tensor, f"the base has {found.value:.0f} NaN or infinite entries in {found.tensor}"


def without_value(bad: Measurement, measured: Sequence[Measurement]) -> str:
    """Why a measurement has no value."""
    if bad.remark:
        return bad.remark.rstrip(".")
    count = next((m.value for m in measured if m.tensor == bad.tensor and m.metric == "nonfinite_entries"), None)
    if count:
        return f"the tuned tensor has {count:.0f} NaN or infinite entries"
    return "an entry of either side is not finite, or its decomposition did not converge"


def doubt(m: Measurement, measured: Sequence[Measurement]) -> str:
    """A word beside an angle whose subspace is ill-defined."""
    if not m.metric.startswith("principal_angle"):
        return ""
    gap = next((g.value for g in measured if g.tensor == m.tensor and g.metric == "principal_gap"), None)
    return f"near-degenerate gap at k ({gap:.1g})" if gap is not None and gap < DEGENERATE_GAP else ""
