"""One large matrix of both sides, measured by matrix products against what is known of the base."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float64, Shaped, UInt8
from torch import Tensor

from ckptaudit.linalg import bounds
from ckptaudit.linalg.differences import Difference, difference, square_sum
from ckptaudit.linalg.leading import Leading, leading
from ckptaudit.linalg.masks import count_inside, packed, top_mask
from ckptaudit.linalg.subspaces import SEPARATION
from ckptaudit.metrics.batch import ALPHA, ETA, PairBatch

SHORT_SIDE = 128
"""From this short side on a matrix is worth a batch of its own; below, decompositions cost next to nothing."""

NARROW = (torch.bfloat16, torch.float16, torch.float32)
ORDINARY = (1e-20, 1e20)
"""Sizes within which float32 products neither overflow nor lose their last digits; the rest is for float64."""

LEAST_UPDATE = 1e-25

Tensors = Mapping[str, Tensor]
Recall = Callable[[Tensor, str, Callable[[], Tensors]], Tensors]
"""(a stored matrix, what is wanted of it, how to make it) to the tensors wanted; a cache may answer."""


def afresh(stored: Tensor, definition: str, make: Callable[[], Tensors]) -> Tensors:
    """Recall nothing: make it."""
    return make()


@dataclass(frozen=True)
class BaseFacts:
    """What the gate has to know of a base matrix: leading directions, and two masks, eight entries to the byte."""

    leading: Leading
    principal: UInt8[Tensor, "_"]
    low_magnitude: UInt8[Tensor, "_"]
    norm: float


class LargePair(PairBatch):
    """A batch of one, stored in bf16, fp16 or float32. `recall` keeps what rests on the base alone.

    Every part that it computes in its own way is certified; where that fails, the float64 one stands in.
    """

    def __init__(self, base: Shaped[Tensor, "m n"], tuned: Shaped[Tensor, "m n"], recall: Recall = afresh) -> None:
        super().__init__(base[None], tuned[None])
        self._recall = recall

    @cached_property
    def difference(self) -> Difference:
        """The one pass over both sides."""
        return difference(self.stored_base[0].contiguous(), self.stored_tuned[0].contiguous(), eta=ETA)

    def prepare(self) -> None:
        """Look at the base first, where several parts will ask for it."""
        _ = self.facts

    @property
    def is_finite(self) -> bool:
        """Whether both sides are free of NaN and infinity; False as well where only their difference is not."""
        return self.difference.is_finite

    @cached_property
    def facts(self) -> BaseFacts | None:
        """What is known of the base; None where the gate's fast ways are not certified for it."""
        definition = f"leading/1 k={self.k} rank={self.mask_rank} alpha={ALPHA}"
        kept = self._recall(self.stored_base, definition, self._make_facts)
        if not len(kept["s"]):
            return None
        here = {name: tensor.to(self.stored_base.device) for name, tensor in kept.items()}
        top = Leading(here["s"], here["left"], here["right"], float(here["error"]))
        return BaseFacts(top, here["principal"], here["low_magnitude"], float(here["norm"]))

    @cached_property
    def images(self) -> bounds.Images | None:
        """The base's leading directions under the update."""
        if self.facts is None or not (self.size == 0 or self.size > LEAST_UPDATE):
            return None
        return bounds.images(self.difference.update, self.facts.leading, k=self.k, size=self.size)

    @cached_property
    def angle_sines(self) -> tuple[float, float] | None:
        """Bounds on the largest and the root mean square sine between the top-k subspaces of either side."""
        if self.facts is None or self.images is None:
            return None
        return bounds.angle_sines(self.images, self.facts.leading, k=self.k)

    @cached_property
    def turned(self) -> float | None:
        """Bound on the sine of the rotation of either side."""
        if self.facts is None or self.images is None:
            return None
        return bounds.turned(self.images, self.facts.leading, k=self.k, share=1.0 - SEPARATION)

    @property
    def size(self) -> float:
        """Bound on norm_F(D)."""
        return math.sqrt(self.difference.square_sum) * (1 + 2 * bounds.UNIT)

    @cached_property
    def norm_floor(self) -> float:
        """Lower bound on norm_2(D)."""
        if not self.size > LEAST_UPDATE:
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
    def update_norm(self) -> Float64[Tensor, "batch"]:
        """norm_F(D), of the difference rounded to float32."""
        return self._one(math.sqrt(self.difference.square_sum))

    @cached_property
    def base_norm(self) -> Float64[Tensor, "batch"]:
        """norm_F(W0)."""
        known = self.__dict__.get("facts")
        return self._one(known.norm if known else math.sqrt(square_sum(self.stored_base[0])))

    @cached_property
    def low_magnitude_share(self) -> Float64[Tensor, "batch"]:
        """Of the changed entries, the share among the floor(alpha m n) smallest of the base."""
        if (known := self.__dict__.get("facts")) is not None:
            return self._share(known.low_magnitude)
        return self._share(packed(self._smallest()))

    @cached_property
    def principal_share(self) -> Float64[Tensor, "batch"]:
        """Of the changed entries, the share among the floor(alpha m n) largest of the base's leading part."""
        return super().principal_share if self.facts is None else self._share(self.facts.principal)

    @cached_property
    def captured(self) -> Float64[Tensor, "batch"]:
        """norm_F(U0k' D V0k)^2."""
        return super().captured if self.images is None else self._one(self.images.captured)

    @cached_property
    def gap(self) -> Float64[Tensor, "batch"]:
        """(s_k(W0) - s_{k+1}(W0)) / s_k(W0)."""
        if self.facts is None:
            return super().gap
        s = self.facts.leading.s
        return ((s[self.k - 1] - s[self.k]) / s[self.k - 1])[None] if self.k < len(s) else self._one(1.0)

    def _one(self, value: float | int) -> Float64[Tensor, "1"]:
        return torch.tensor([value], dtype=torch.float64, device=self.stored_base.device)

    def _share(self, bits: UInt8[Tensor, "_"]) -> Float64[Tensor, "1"]:
        total = self.difference.changed_count
        inside = count_inside(bits, self.difference.changed.flatten())
        return self._one(inside / total if total else ALPHA)

    def _smallest(self) -> Bool[Tensor, "_"]:
        return top_mask(self.stored_base.flatten().abs(), count=self._half, largest=False)

    @property
    def _half(self) -> int:
        return int(ALPHA * self.m * self.n)

    def _make_facts(self) -> Tensors:
        top = leading(self.stored_base[0], min(self.k + 1, self.m, self.n))
        if top is None or not ORDINARY[0] < float(top.s[0]) < ORDINARY[1]:
            return {"s": torch.empty(0, dtype=torch.float64)}
        part = (top.left[:, : self.mask_rank] * top.s[: self.mask_rank].float()) @ top.right[:, : self.mask_rank].mT
        return {
            "s": top.s,
            "left": top.left,
            "right": top.right,
            "error": torch.tensor(top.error, dtype=torch.float64),
            "norm": torch.tensor(math.sqrt(square_sum(self.stored_base[0])), dtype=torch.float64),
            "principal": packed(top_mask(part.abs_().flatten(), count=self._half)),
            "low_magnitude": packed(self._smallest()),
        }


def bound_of(evaluate: Callable[[LargePair], float | None]) -> Callable[[PairBatch], Tensor | None]:
    """A bound that large matrices have, and those alone."""

    def bound(batch: PairBatch) -> Tensor | None:
        value = evaluate(batch) if isinstance(batch, LargePair) else None
        return None if value is None else batch.update_norm.new_tensor([value])

    return bound
