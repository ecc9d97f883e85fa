"""What metrics that look at more than one tensor are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ckptaudit.pairing import ModelPair
from ckptaudit.pairing.auxiliary import Auxiliary

Values = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class RunEvidence:
    """A pair, and values of all tensors by metric and matrix name; `frozen` are globs of what was not trained."""

    pair: ModelPair
    values: Mapping[str, Values]
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanEvidence:
    """A pair, and by the name of an aligned weight the checks that limit what its update may be."""

    pair: ModelPair
    judged_by: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class ParityEvidence:
    """A pair and the other inputs; `found` keeps what several metrics derive alike, by name."""

    pair: ModelPair
    auxiliary: Auxiliary
    found: dict[str, object] = field(default_factory=dict)
