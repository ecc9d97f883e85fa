"""Base, aligned, tuned: what fine-tuning an aligned model did along and against the step that had aligned it.

`A` is the alignment step, aligned minus base; `F` the fine-tuning step, tuned minus aligned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil

from torch import Tensor

from ckptaudit.linalg.selection import cut_by_mass
from ckptaudit.metrics.groups import Piece, Reading, WeightGroup, group_metric

RESTORATION = "arXiv:2504.09757, abstract: aligned direction, and restoring a small subset of weights; our reading"
COLLISION = "arXiv:2508.02079, abstract: Riemannian overlap is coordinate-wise interference; our reading"


@dataclass(slots=True)
class Steps:
    """Sums over a group: <A, F>, norm(A)^2, norm(F)^2, sum |a f|; and <A, F> by weight."""

    inner: float = 0.0
    aligning: float = 0.0
    tuning: float = 0.0
    overlap: float = 0.0
    inner_of: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, group: WeightGroup) -> Steps:
        """One pass over the group."""
        total = cls()
        for piece in group.pieces():
            a, f = _steps(piece)
            inner = float(a @ f)
            total.inner += inner
            total.aligning += float(a @ a)
            total.tuning += float(f @ f)
            total.overlap += float(a.abs() @ f.abs())
            total.inner_of[piece.tensor] = total.inner_of.get(piece.tensor, 0.0) + inner
        return total

    @property
    def undoing_most(self) -> str:
        """The weight that works against the alignment step the most."""
        return min(self.inner_of, key=lambda name: self.inner_of[name])


NO_ALIGNMENT = Reading(None, remark="the aligned checkpoint equals the base here: there is no aligned direction")
NO_TUNING = Reading(0.0, remark="the tuned weights equal the aligned ones")


def _steps(piece: Piece) -> tuple[Tensor, Tensor]:
    aligned = piece.weights["aligned"]
    return aligned - piece.base, piece.tuned - aligned


@group_metric(
    unit="1",
    scale="size",
    formula="<W1 - W0, A> / norm(A)^2 = 1 + <F, A> / norm(A)^2",
    source=RESTORATION,
    inputs=("aligned",),
)
def alignment_kept(group: WeightGroup) -> Reading:
    """How much of the alignment step is left along its own direction: 1 all, 0 undone, beyond 1 driven further."""
    steps = Steps.of(group)
    if not steps.aligning:
        return NO_ALIGNMENT
    return Reading(1.0 + steps.inner / steps.aligning, steps.undoing_most)


@group_metric(
    unit="1",
    scale="share",
    formula="<F, A>^2 / (norm(F)^2 norm(A)^2), the squared cosine between the two steps",
    source=RESTORATION,
    inputs=("aligned",),
)
def alignment_direction_share(group: WeightGroup) -> Reading:
    """Share of the fine-tuning step's energy along the aligned direction, either way; chance is 1 / entries."""
    steps = Steps.of(group)
    if not steps.aligning:
        return NO_ALIGNMENT
    if not steps.tuning:
        return NO_TUNING
    parts = {name: abs(inner) for name, inner in steps.inner_of.items()}
    share = min(1.0, steps.inner**2 / (steps.tuning * steps.aligning))
    way = "against it" if steps.inner < 0 else "along it"
    return Reading(share, max(parts, key=lambda name: parts[name]), f"on the whole {way}")


@group_metric(
    unit="1",
    scale="share",
    formula="sum |a f| / (norm(A) norm(F))",
    source=COLLISION,
    inputs=("aligned",),
)
def alignment_coordinate_overlap(group: WeightGroup) -> Reading:
    """How far both steps write on the same coordinates: 0 if disjoint, 2/pi if both are normal, at most 1."""
    steps = Steps.of(group)
    if not steps.aligning:
        return NO_ALIGNMENT
    if not steps.tuning:
        return NO_TUNING
    return Reading(min(1.0, steps.overlap / (steps.aligning * steps.tuning) ** 0.5))


@group_metric(
    unit="1",
    scale="share",
    formula="least share of entries whose u = max(0, -a f) sum to half of sum u",
    source=RESTORATION,
    inputs=("aligned",),
)
def undoing_half_share(group: WeightGroup) -> Reading:
    """How small a set of weights carries half of what fine-tuning undid, and would bring it back if restored."""

    def undoing() -> Iterator[tuple[Tensor, Tensor]]:
        for piece in group.pieces():
            a, f = _steps(piece)
            undone = (-a * f).clamp(min=0.0)
            yield undone, undone

    total = sum((float(undone.sum()) for undone, _ in undoing()), 0.0)
    if not total:
        return Reading(0.0, remark="nothing is undone")
    cut = cut_by_mass(undoing, total / 2)
    count = cut.count_above + cut.share_of_ties(total / 2) * cut.count_at
    return Reading(count / group.entries, remark=f"{ceil(count)} of {group.entries} entries")
