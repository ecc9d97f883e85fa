"""What lies between two neighbouring saves of a run: how far the policy has moved on the same texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ckptaudit.behavior.causal_models import CausalModel
from ckptaudit.behavior.comparison import compare
from ckptaudit.behavior.items import COMPARED, Item
from ckptaudit.behavior.padding import padding_is_seen


@dataclass(frozen=True)
class Interval:
    """From one save to the next, `steps` apart.

    `kl` holds by probe the sum over its scored tokens of KL(later, earlier) in nats, and how many tokens there are.
    """

    steps: int
    kl: Mapping[str, tuple[float, int]]


def interval(earlier: CausalModel, later: CausalModel, steps: int, items: Sequence[Item]) -> Interval:
    """Both saves on the probes' own texts, without those that are compared. Raises MeasurementError."""
    chosen = [item for item in items if item.texts and item.probe.kind not in COMPARED]
    texts = [item.texts[0] for item in chosen]
    if not texts:
        return Interval(steps, {})
    alike = any(padding_is_seen(model, texts) for model in (earlier, later))
    rows = compare(earlier, later, texts, alike=alike)
    sums = ((float(row.kl_tuned_base.sum()), len(row.agree)) for row in rows)
    return Interval(steps, {item.probe.id: one for item, one in zip(chosen, sums, strict=True)})
