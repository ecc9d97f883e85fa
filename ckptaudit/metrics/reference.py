"""The update against that of another run from the same base: does reinforcement learning repeat a supervised run?

`D` is the update, `R` the reference's update, reference minus base, both as one vector over the group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ckptaudit.metrics.groups import Reading, WeightGroup, group_metric

GEOMETRY = "arXiv:2606.23740, abstract: cosine similarity of weight deltas, and the part orthogonal to that of SFT"


@dataclass(slots=True)
class Alike:
    """Sums over a group: <D, R>, norm(D)^2, norm(R)^2; and <D, R> by weight."""

    inner: float = 0.0
    own: float = 0.0
    reference: float = 0.0
    inner_of: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, group: WeightGroup) -> Alike:
        """One pass over the group, shared by the metrics of a run."""
        name = ",".join(("alike", *(member.name for member in group.members)))
        found: Alike = group.once(name, lambda: cls._summed(group))
        return found

    @classmethod
    def _summed(cls, group: WeightGroup) -> Alike:
        total = cls()
        for piece in group.pieces():
            d, r = piece.update, piece.weights["reference"] - piece.base
            inner = float(d @ r)
            total.inner += inner
            total.own += float(d @ d)
            total.reference += float(r @ r)
            total.inner_of[piece.tensor] = total.inner_of.get(piece.tensor, 0.0) + inner
        return total

    @property
    def cosine(self) -> float:
        """The cosine between both updates."""
        return max(-1.0, min(1.0, self.inner / (math.sqrt(self.own) * math.sqrt(self.reference))))

    @property
    def alike_most(self) -> str:
        """The weight that contributes most to the inner product, either way."""
        return max(self.inner_of, key=lambda name: abs(self.inner_of[name]))

    @property
    def without_direction(self) -> Reading | None:
        """The reading where one of the updates is zero, and has no direction."""
        if not self.reference:
            return Reading(None, remark="the reference equals the base here: it has no direction")
        return None if self.own else Reading(0.0, remark="the tuned weights equal the base's")


@group_metric(
    unit="1",
    scale="difference",
    formula="<D, R> / (norm(D) norm(R))",
    source=GEOMETRY,
    inputs=("reference",),
)
def reference_cosine(group: WeightGroup) -> Reading:
    """Cosine between the update and that of the reference run; chance is within a few times 1 / sqrt(entries)."""
    alike = Alike.of(group)
    return alike.without_direction or Reading(alike.cosine, alike.alike_most)


@group_metric(
    unit="1",
    scale="share",
    formula="<D, R>^2 / (norm(D)^2 norm(R)^2), the squared cosine",
    source=GEOMETRY,
    inputs=("reference",),
)
def reference_energy_share(group: WeightGroup) -> Reading:
    """Share of the update's energy along the reference's update, either way; the rest is orthogonal to it."""
    alike = Alike.of(group)
    way = "against it" if alike.inner < 0 else "along it"
    return alike.without_direction or Reading(alike.cosine**2, alike.alike_most, f"on the whole {way}")
