"""The numbers of one merged weight, and whether rounding explains them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ckptaudit.linalg.rounding import Interval, coarser, factor_interval, narrower, spacing
from ckptaudit.parity.bits import same_bits
from ckptaudit.parity.merges import MergedTensor

NOISE = 2.0**-20
"""Share of an update's largest entry within which float32 products may differ by their order of summation."""

STEADY = 0.1
"""How far from 1 the share of an update may read that a second rounding blurs."""


@dataclass(frozen=True)
class MergedWeights:
    """The numbers of one weight on one axis, each read when it is asked for: a right merge needs bits alone.

    Reading raises CheckpointError if a file is damaged.
    """

    tensor: MergedTensor

    @cached_property
    def stored(self) -> Tensor:
        """T, in the type of the file."""
        return self.tensor.stored.read().flatten()

    @cached_property
    def merged(self) -> Tensor:
        """What peft makes of base and adapter, in the base's type."""
        return self.tensor.merged.read().flatten()

    @cached_property
    def base(self) -> Tensor:
        """W0, in the base's type; zero where the base has no such weight."""
        own = self.tensor.base
        return own.read().flatten() if own is not None else torch.zeros_like(self.merged)

    @cached_property
    def exact(self) -> Tensor:
        """W0 and the adapter's update in float64."""
        return self.tensor.exact.read().double().flatten()

    @cached_property
    def moved(self) -> Tensor:
        """What the file holds beyond the base: T - W0."""
        return self.stored.double() - self.base.double()

    @cached_property
    def update(self) -> Tensor:
        """What the adapter adds, before rounding."""
        return self.exact - self.base.double()

    def slack(self, update: Tensor, factor: float = 1.0) -> Tensor:
        """How far T may lie from W0 + factor * update after rounding, in each entry.

        Half a step of the coarser of both types for each rounding of the sum, one step of the update for an update
        that was itself held in that type, and NOISE for another order of summation.
        """
        dtype = coarser(self.stored.dtype, self.base.dtype)
        goal = self.base.double() + factor * update
        step = spacing(torch.maximum(goal.abs(), self.stored.double().abs()), dtype)
        own = torch.finfo(dtype).eps * update.abs() + NOISE * update.abs().max()
        return self.tensor.roundings * step / 2 + max(1.0, abs(factor)) * own

    def explained_by(self, update: Tensor, factor: float = 1.0) -> bool:
        """Whether T is W0 + factor * update, rounded."""
        return bool(((self.moved - factor * update).abs() <= self.slack(update, factor)).all())

    def factors(self, update: Tensor) -> Interval:
        """All c for which T is W0 + c * update, rounded."""
        guess = share_of(self.moved, update)
        return factor_interval(self.moved, update, self.slack(update, guess))

    @property
    def is_right(self) -> bool:
        """Whether T is what peft gives, bit for bit, or that merge rounded in another order.

        Bits are compared in the narrower of both types. Where a right merge rounds twice, T must besides hold the
        visible update at a share near 1.
        """
        target = narrower(self.stored.dtype, self.merged.dtype)
        if same_bits(self.stored.to(target), self.merged.to(target)):
            return True
        if not self.explained_by(self.update):
            return False
        if self.tensor.roundings == 1:
            return True
        seen = self.merged.double() - self.base.double()
        return abs(share_of(self.moved, seen) - 1) <= STEADY


def share_of(moved: Tensor, update: Tensor) -> float:
    """The least-squares factor <moved, update> / <update, update>; 0 for a zero update."""
    size = float(update.square().sum())
    return float((moved * update).sum()) / size if size else 0.0
