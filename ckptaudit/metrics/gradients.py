"""The update against gradients: how much of it lies in their span, and what it does to their loss."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ckptaudit.linalg.spans import Projection, leading_energy, onto_leading, onto_span
from ckptaudit.metrics.groups import Reading, WeightGroup, group_metric

UNLEARNING = (
    "arXiv:2511.17100, abstract: unchanged to first order iff orthogonal to the span of the retain gradients"
)
GIST = "arXiv:2602.18584, abstract: the task subspace is recovered from validation gradients by an SVD; our reading"
NO_GRADIENT = "every sample's gradient is zero here"


SQUARED = (1e-200, 1e200)


def unit_of(largest: Iterable[float]) -> float:
    """The power of two next to the largest of these, by which all can be divided exactly; 1 if all are 0."""
    most = max(largest, default=0.0)
    return 2.0 ** max(math.frexp(most)[1] - 1, -1021) if most > 0 else 1.0


@dataclass(slots=True)
class Moments:
    """Inner products of `s` samples with each other and with the update, summed over a group."""

    gram: Tensor
    inner: Tensor
    square: float = 0.0
    sample_unit: float = 1.0
    update_unit: float = 1.0
    """What samples and update are counted in."""
    inner_of: dict[str, Tensor] = field(default_factory=dict)
    """By weight, its part of `inner`."""

    @classmethod
    def of(cls, group: WeightGroup, name: str) -> Moments:
        """One pass over the group; three where the numbers are of a size whose squares float64 does not hold."""
        total = cls._counted(group, name, 1.0, 1.0)
        if total._is_sound:
            return total
        sample_unit = unit_of(float(piece.samples[name].abs().max()) for piece in group.pieces())
        update_unit = unit_of(float(piece.update.abs().max()) for piece in group.pieces())
        return cls._counted(group, name, sample_unit, update_unit)

    @classmethod
    def _counted(cls, group: WeightGroup, name: str, sample_unit: float, update_unit: float) -> Moments:
        s = group.inputs[name].samples
        gram, inner = torch.zeros(s, s, dtype=torch.float64), torch.zeros(s, dtype=torch.float64)
        total = cls(gram, inner, sample_unit=sample_unit, update_unit=update_unit)
        for piece in group.pieces():
            samples, update = piece.samples[name] / sample_unit, piece.update / update_unit
            inner = (samples @ update).cpu()
            total.gram += (samples @ samples.mT).cpu()
            total.inner += inner
            total.square += float(update @ update)
            total.inner_of[piece.tensor] = total.inner_of.get(piece.tensor, 0) + inner
        return total

    @property
    def _is_sound(self) -> bool:
        """Whether nothing overflowed, and nothing may have come out as 0 that is not."""
        return all(SQUARED[0] < size < SQUARED[1] for size in (float(self.gram.trace()), self.square))

    @property
    def leading(self) -> int:
        """How many leading directions count as the task's: max(1, s // 8)."""
        return max(1, len(self.inner) // 8)

    def reading(self, projection: Projection, entries: int) -> Reading:
        """The share of the update that a projection keeps, beside what chance would give it."""
        if not projection.rank:
            return Reading(None, remark=NO_GRADIENT)
        chance = f"{projection.rank} directions among {entries} entries: chance {projection.rank / entries:.2g}"
        if not self.square:
            return Reading(0.0, remark="the update is zero")
        parts = {name: projection.share(inner, self.square) for name, inner in self.inner_of.items()}
        share = min(1.0, max(0.0, projection.share(self.inner, self.square)))
        return Reading(share, max(parts, key=lambda name: parts[name]), chance)


@group_metric(
    unit="1",
    scale="share",
    formula="norm(P vec(D))^2 / norm(D)^2, P onto the span of the retain gradients, all weights as one",
    source=UNLEARNING,
    inputs=("retain_gradients",),
)
def retain_tangential_share(group: WeightGroup) -> Reading:
    """Share of the update's energy in the span of the retain gradients; chance is rank / entries."""
    moments = Moments.of(group, "retain_gradients")
    return moments.reading(onto_span(moments.gram, moments.inner), group.entries)


@group_metric(
    unit="nats",
    scale="difference",
    formula="<mean_i g_i, D>, summed over the weights of the group",
    source=UNLEARNING,
    inputs=("retain_gradients",),
)
def retain_loss_change(group: WeightGroup) -> Reading:
    """First-order change of the mean retain loss; parts add up to the whole, and a fall is negative."""
    moments = Moments.of(group, "retain_gradients")
    parts = {name: float(inner.mean()) for name, inner in moments.inner_of.items()}
    unit = moments.sample_unit * moments.update_unit
    return Reading(float(moments.inner.mean()) * unit, max(parts, key=lambda name: parts[name]))


@group_metric(
    unit="1",
    scale="share",
    formula="sum_{i<=r} s_i^2 / sum_i s_i^2 of the stacked gradients, r = max(1, samples // 8)",
    source=GIST,
    inputs=("gradients",),
)
def gradient_concentration(group: WeightGroup) -> Reading:
    """Share of the gradients' energy in their r leading directions; r / samples if nothing is common."""
    moments = Moments.of(group, "gradients")
    if not moments.gram.trace():
        return Reading(None, remark=NO_GRADIENT)
    even = (
        f"{moments.leading} of {len(moments.inner)} directions: {moments.leading / len(moments.inner):.2g} if even"
    )
    return Reading(leading_energy(moments.gram, moments.leading), remark=even)


@group_metric(
    unit="1",
    scale="share",
    formula="norm(P vec(D))^2 / norm(D)^2, P onto the r leading right singular vectors of the gradients, "
    "r = max(1, samples // 8)",
    source=GIST,
    inputs=("gradients",),
)
def gradient_top_share(group: WeightGroup) -> Reading:
    """Share of the update's energy in the task's leading gradient directions; chance is r / entries."""
    moments = Moments.of(group, "gradients")
    return moments.reading(onto_leading(moments.gram, moments.inner, moments.leading), group.entries)


@group_metric(
    unit="1",
    scale="size",
    formula="gradient_top_share / (r / entries)",
    source=GIST,
    inputs=("gradients",),
)
def gradient_top_ratio(group: WeightGroup) -> Reading:
    """How many times more of the update than by chance lies in the task's leading gradient directions."""
    moments = Moments.of(group, "gradients")
    projection = onto_leading(moments.gram, moments.inner, moments.leading)
    reading = moments.reading(projection, group.entries)
    if reading.value is None:
        return reading
    return Reading(reading.value * group.entries / projection.rank, reading.worst, reading.remark)
