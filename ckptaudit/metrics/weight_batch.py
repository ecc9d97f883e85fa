"""Same-shaped matrices of both sides on one device, and what a pass over their entries gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor

from ckptaudit.linalg.masks import share_in_top, visibly_changed
from ckptaudit.linalg.parts import cached_property
from ckptaudit.metrics.estimates import Estimate, derived

ETA = 1e-3
ALPHA = 0.5
MAX_SUBSPACE = 512
MAX_MASK_RANK = 64

SQUARABLE = (1e-30, 1e30)
"""Sizes of float64 entries that bf16 holds as well, and whose fourth powers float64 sums with all digits."""


class WeightBatch:
    """`base` and `tuned` as stored, `[batch, m, n]`, and the float64 quantities derived from them.

    float64 holds every bf16, fp16 and fp32 value exactly, so the update is the true difference.
    """

    def __init__(self, base: Shaped[Tensor, "batch m n"], tuned: Shaped[Tensor, "batch m n"]) -> None:
        self.stored_base = base
        self.stored_tuned = tuned
        self._reads: list[Estimate] = []

    def evaluate(self, compute: Callable[[Self], Tensor], *, is_difference: bool = False) -> Estimate:
        """What a metric's function gives, with the method and the error of the parts that it reads.

        Which other metrics were evaluated before makes no difference. A difference to an exact number has the error
        of the part in absolute terms, a quotient in relative ones.
        """
        self._reads = []
        values = compute(self)
        return derived(values, self._reads, is_difference=is_difference)

    def read(self, part: Estimate) -> Tensor:
        """The values of a part, noted for `evaluate`: the result's error follows from it."""
        self._reads.append(part)
        return part.values

    @property
    def m(self) -> int:
        """Rows."""
        return self.stored_base.shape[1]

    @property
    def n(self) -> int:
        """Columns."""
        return self.stored_base.shape[2]

    @property
    def k(self) -> int:
        """Size of the principal subspaces: min(512, max(1, r // 8)), r = min(m, n)."""
        return min(MAX_SUBSPACE, max(1, min(self.m, self.n) // 8))

    @property
    def mask_rank(self) -> int:
        """Rank of the reconstruction behind the principal mask: min(64, max(1, r // 8))."""
        return min(MAX_MASK_RANK, max(1, min(self.m, self.n) // 8))

    @property
    def cuts(self) -> tuple[int, ...]:
        """The sizes of the subspaces that metrics ask for."""
        return tuple({self.k, self.mask_rank})

    @cached_property
    def base(self) -> Float[Tensor, "batch m n"]:
        """W0 in float64, in units of `unit`."""
        return self._in_units(self.stored_base)

    @cached_property
    def tuned(self) -> Float[Tensor, "batch m n"]:
        """W1 in float64, in units of `unit`."""
        return self._in_units(self.stored_tuned)

    @cached_property
    def unit(self) -> Float64[Tensor, "batch"]:
        """The power of two that `base` and `tuned` are counted in: 1, but for float64 of uncommon size.

        Squares of what is stored in a narrower type float64 holds; those of 1e200 it does not, and those of 1e-200
        it takes for 0. A metric that depends on the size of both sides together must multiply by this.
        """
        largest = torch.ones(len(self.stored_base), dtype=torch.float64, device=self.stored_base.device)
        if torch.float64 in (self.stored_base.dtype, self.stored_tuned.dtype) and self.m * self.n:
            sides = (side.double().abs().amax(dim=(1, 2)) for side in (self.stored_base, self.stored_tuned))
            largest = torch.maximum(*sides)
        ordinary = ((largest > SQUARABLE[0]) & (largest < SQUARABLE[1])) | (largest == 0) | ~largest.isfinite()
        exponents = torch.frexp(largest).exponent.clamp(min=-1021)
        return torch.where(ordinary, torch.ones_like(largest), torch.ldexp(torch.ones_like(largest), exponents - 1))

    @cached_property
    def is_ordinary(self) -> bool:
        """Whether `unit` is 1 for all of them."""
        return bool((self.unit == 1.0).all())

    def _in_units(self, stored: Shaped[Tensor, "batch m n"]) -> Float[Tensor, "batch m n"]:
        wide = stored.double()
        return wide if self.is_ordinary else wide / self.unit[:, None, None]

    @property
    def in_range(self) -> tuple[Shaped[Tensor, "batch m n"], Shaped[Tensor, "batch m n"]]:
        """Both sides as stored, or in units of `unit` where float64 goes beyond bf16's range."""
        return (self.stored_base, self.stored_tuned) if self.is_ordinary else (self.base, self.tuned)

    @cached_property
    def update(self) -> Float[Tensor, "batch m n"]:
        """D = W1 - W0."""
        return self.tuned - self.base

    @cached_property
    def base_norm(self) -> Float[Tensor, "batch"]:
        """norm_F(W0)."""
        norm: Tensor = torch.linalg.vector_norm(self.base, dim=(1, 2))
        return norm

    @cached_property
    def update_norm(self) -> Float[Tensor, "batch"]:
        """norm_F(D)."""
        norm: Tensor = torch.linalg.vector_norm(self.update, dim=(1, 2))
        return norm

    @cached_property
    def changed(self) -> Bool[Tensor, "batch m n"]:
        """The bf16-visible update mask."""
        return visibly_changed(*self.in_range, eta=ETA)

    @cached_property
    def changed_count(self) -> Float64[Tensor, "batch"]:
        """Number of entries in the update mask."""
        return self.changed.sum(dim=(1, 2)).double()

    @cached_property
    def differing_count(self) -> Float64[Tensor, "batch"]:
        """Number of entries whose stored values differ; NaN differs from everything."""
        # By value: the two sides may be stored in types that cannot be compared with each other.
        return (self.stored_tuned.double() != self.stored_base.double()).sum(dim=(1, 2)).double()

    @cached_property
    def nonfinite_count(self) -> Float64[Tensor, "batch"]:
        """Number of NaN and infinite entries on the tuned side."""
        return (~torch.isfinite(self.stored_tuned)).sum(dim=(1, 2)).double()

    @cached_property
    def base_nonfinite_count(self) -> Float64[Tensor, "batch"]:
        """Number of NaN and infinite entries on the base side."""
        return (~torch.isfinite(self.stored_base)).sum(dim=(1, 2)).double()

    @cached_property
    def low_magnitude_share(self) -> Float64[Tensor, "batch"]:
        """Of the changed entries, the share among the floor(alpha m n) smallest of the base."""
        return share_in_top(-self.base.abs(), self.changed, alpha=ALPHA)
