"""One matrix of both sides as stored, with what one pass over its entries gives."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float64, UInt8
from torch import Tensor

from ckptaudit.linalg import bounds
from ckptaudit.linalg.differences import Difference, difference
from ckptaudit.linalg.entry_sets import count_common, packed
from ckptaudit.linalg.parts import cached_property
from ckptaudit.linalg.products import UNIT
from ckptaudit.metrics.base_facts import within
from ckptaudit.metrics.batch import PairBatch
from ckptaudit.metrics.estimates import Estimate
from ckptaudit.metrics.measurement import Method
from ckptaudit.metrics.weight_batch import ALPHA, ETA

PRODUCTS = (1e-25, 1e18)
"""Sizes of an update whose float32 products keep their digits, and whose squares float32 holds."""


class StoredPair(PairBatch):
    """A batch of one, stored in bf16, fp16 or float32, that is never copied to float64 for its entries' sake."""

    @cached_property
    def difference(self) -> Difference:
        """The one pass over both sides."""
        return difference(self.stored_base[0].contiguous(), self.stored_tuned[0].contiguous(), eta=ETA)

    @property
    def is_finite(self) -> bool:
        """Whether both sides are free of NaN and infinity; False as well where only their difference is not."""
        return self.difference.is_finite

    @property
    def size(self) -> float:
        """Bound on norm_F(D)."""
        return math.sqrt(self.difference.square_sum) * (1 + 2 * UNIT)

    @cached_property
    def norm_floor(self) -> float:
        """Lower bound on norm_2(D)."""
        if not within(self.size, PRODUCTS):
            return 0.0
        return bounds.norm_floor(self.difference.update, size=self.size)

    @cached_property
    def changed(self) -> Bool[Tensor, "batch m n"]:
        """The bf16-visible update mask."""
        return self.difference.changed[None]

    @cached_property
    def changed_count(self) -> Float64[Tensor, "batch"]:
        """Number of entries in the update mask."""
        return self._one(self.difference.changed_count)

    @cached_property
    def differing_count(self) -> Float64[Tensor, "batch"]:
        """Number of entries whose stored values differ."""
        return self._one(self.difference.differing_count) if self.is_finite else super().differing_count

    @cached_property
    def nonfinite_count(self) -> Float64[Tensor, "batch"]:
        """Number of NaN and infinite entries on the tuned side."""
        return self._one(0.0) if self.is_finite else super().nonfinite_count

    @cached_property
    def base_nonfinite_count(self) -> Float64[Tensor, "batch"]:
        """Number of NaN and infinite entries on the base side."""
        return self._one(0.0) if self.is_finite else super().base_nonfinite_count

    @cached_property
    def update_norm(self) -> Float64[Tensor, "batch"]:
        """norm_F(D), of the difference rounded to float32."""
        return self._one(math.sqrt(self.difference.square_sum))

    def _one(self, value: float | int) -> Float64[Tensor, "1"]:
        return torch.tensor([value], dtype=torch.float64, device=self.stored_base.device)

    def _estimate(self, value: float, method: Method, error: float) -> Estimate:
        return Estimate(self._one(value), method, self._one(error))

    def _share(self, bits: UInt8[Tensor, "_"]) -> Float64[Tensor, "1"]:
        total = self.difference.changed_count
        inside = count_common(bits, self._marks)
        return self._one(inside / total if total else ALPHA)

    @cached_property
    def _marks(self) -> UInt8[Tensor, "_"]:
        return packed(self.difference.changed.flatten())
