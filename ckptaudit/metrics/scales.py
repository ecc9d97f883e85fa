"""Worse by a factor: what that means for sizes, for shares between 0 and 1, and near the ends of either."""

from __future__ import annotations

import math
from dataclasses import dataclass

SHARES = frozenset(
    {
        "consensus_share",
        "low_magnitude_overlap",
        "off_principal_energy",
        "off_principal_energy_ratio",
        "principal_gap",
        "principal_mask_overlap",
        "sibling_jaccard",
        "sibling_jaccard_by_chance",
        "sibling_mask_agreement",
        "sibling_subspace_agreement",
        "subspace_locking",
        "update_sparsity",
    }
)
"""Metrics whose values cannot pass 1: of those, the odds are what a factor multiplies."""

COUNTS = ("entries", "tensors")
"""Units of counts: a check on one says what there must or must not be, and a factor on that means nothing."""

NEGLIGIBLE = 0.01
"""Badness below this share of the limit's is as good as none: nobody is to be woken for a tripled millionth."""

LEAST = 1e-300


@dataclass(frozen=True, slots=True)
class Badness:
    """How bad a value is, as a positive number that a factor can multiply, for one check's metric and side.

    A size v that may be at most so much is v bad, one that must be at least so much is 1 / v bad. A share
    is bad by its odds, v / (1 - v) or the other way round: twice as bad as 0.9, of at least so much, is
    0.818, and as 0.02, of at most so much, 0.039. Nothing counts as less bad than a hundredth of the limit.
    """

    is_share: bool
    at_most: bool
    limit: float

    def of(self, value: float) -> float:
        """Never below the floor; infinite for a share that is as bad as can be."""
        floor = NEGLIGIBLE * self._raw(self.limit)
        # A limit at the very end of its scale leaves nothing to take a hundredth of.
        return max(self._raw(value), floor if floor < NEGLIGIBLE / LEAST else 0.0)

    def value(self, badness: float) -> float:
        """The value that is this bad."""
        size = badness if self.at_most else 1.0 / max(badness, LEAST)
        if not self.is_share:
            return size
        return 1.0 if math.isinf(size) else size / (1.0 + size)

    def worsened(self, value: float, factor: float) -> float:
        """The value that is `factor` times as bad."""
        return self.value(factor * self.of(value))

    def _raw(self, value: float) -> float:
        size = _odds(value) if self.is_share else max(value, 0.0)
        return size if self.at_most else 1.0 / max(size, LEAST)


def badness(metric: str, *, at_most: bool, limit: float) -> Badness:
    """The badness of a metric's values against a limit."""
    return Badness(metric in SHARES, at_most, limit)


def _odds(share: float) -> float:
    kept = min(max(share, 0.0), 1.0)
    return math.inf if kept == 1.0 else kept / (1.0 - kept)
