"""What several runs from one base did to the same matrices, boiled down until it is small enough to keep."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ckptaudit.linalg.agreement import leading_right, shared_entries, subspace_similarity
from ckptaudit.linalg.spectra import stable_rank
from ckptaudit.metrics.batch import PairBatch

DIRECTIONS = 16


def directions(m: int, n: int) -> int:
    """K of the update's leading subspace: 16, or an eighth of the shorter side where that is less."""
    return min(DIRECTIONS, max(1, min(m, n) // 8))


@dataclass(frozen=True)
class Footprint:
    """One run's update of a stack of matrices: size, stable rank, leading directions, mask if kept."""

    norm: Float[Tensor, "batch"]
    stable_rank: Float[Tensor, "batch"]
    space: Float[Tensor, "batch n k"]
    sound: Bool[Tensor, "batch"]
    mask: Bool[Tensor, "batch m n"] | None = None


@dataclass(frozen=True)
class SeriesSums:
    """Sums over the entries of all runs' updates together.

    `products` are the inner products of each two updates; `moved` counts the weights that any run changed,
    `straight` those of them that follow the step number. Both are 0 for siblings.
    """

    products: Float[Tensor, "runs runs batch"]
    moved: Float[Tensor, "batch"]
    straight: Float[Tensor, "batch"]


@dataclass(frozen=True)
class Footprints:
    """The runs' footprints in order, and where each stands: `steps` counts up along one training run."""

    of: tuple[Footprint, ...]
    steps: tuple[int, ...]
    sums: SeriesSums

    @cached_property
    def norms(self) -> Float[Tensor, "runs batch"]:
        """norm_F(D) / norm_F(W0) of each run."""
        return torch.stack([f.norm for f in self.of])

    @cached_property
    def stable_ranks(self) -> Float[Tensor, "runs batch"]:
        """norm_F(D)^2 / norm_2(D)^2 of each run."""
        return torch.stack([f.stable_rank for f in self.of])

    @cached_property
    def sound(self) -> Bool[Tensor, "batch"]:
        """Which matrices are finite in every run."""
        return torch.stack([f.sound for f in self.of]).all(dim=0)

    @cached_property
    def similarities(self) -> Float[Tensor, "runs runs batch"]:
        """Sim_K of each two runs."""
        rows = [torch.stack([subspace_similarity(a.space, b.space) for b in self.of]) for a in self.of]
        return torch.stack(rows)

    @cached_property
    def shared(self) -> Float[Tensor, "runs runs batch"]:
        """Share of the entries that each two runs both changed; on the diagonal, that each changed."""
        masks = self._masks
        counts: Int[Tensor, "runs runs batch"] = shared_entries(masks)
        return counts.double() / masks[0, 0].numel()

    @cached_property
    def consensus(self) -> Float[Tensor, "batch"]:
        """Share of the entries that all runs changed."""
        masks = self._masks
        return masks.all(dim=0).sum(dim=(1, 2)).double() / masks[0, 0].numel()

    @property
    def _masks(self) -> Bool[Tensor, "runs batch m n"]:
        return torch.stack([f.mask for f in self.of if f.mask is not None])


def footprint(batch: PairBatch, *, k: int, with_mask: bool) -> Footprint:
    """What to remember of one run, `k` leading directions among it.

    Matrices that are not finite read NaN throughout and change nothing.
    """
    sound = batch.stored_base.isfinite().flatten(1).all(1) & batch.stored_tuned.isfinite().flatten(1).all(1)
    clean = PairBatch(_zero_unless(sound, batch.stored_base), _zero_unless(sound, batch.stored_tuned))
    space, s = leading_right(clean.update, k)
    unknown = torch.where(sound, 0.0, torch.nan).double()
    size = clean.base_norm
    return Footprint(
        norm=clean.update_norm / torch.where(size > 0, size, torch.nan) + unknown,
        stable_rank=torch.where(s[:, 0] > 0, stable_rank(clean.update_norm, s[:, 0]), torch.nan) + unknown,
        space=space,
        sound=sound,
        mask=clean.changed if with_mask else None,
    )


def _zero_unless(sound: Bool[Tensor, "batch"], stack: Tensor) -> Tensor:
    return torch.where(sound[:, None, None], stack, torch.zeros_like(stack))
