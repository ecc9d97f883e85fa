"""One large matrix of both sides, measured by matrix products against what is known of the base."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Float32, Float64, Shaped, UInt8
from torch import Tensor

from ckptaudit.linalg import bounds
from ckptaudit.linalg.blind_updates import Census
from ckptaudit.linalg.changes import Turn, change_error, own_product, products, update_values
from ckptaudit.linalg.differences import Difference, difference, square_sum
from ckptaudit.linalg.entry_sets import count_common, packed
from ckptaudit.linalg.followed import Followed
from ckptaudit.linalg.leading import Leading
from ckptaudit.linalg.parts import cached_property
from ckptaudit.linalg.products import UNIT
from ckptaudit.linalg.subspaces import SEPARATION
from ckptaudit.linalg.tuned_gram import TunedGram
from ckptaudit.metrics import base_facts
from ckptaudit.metrics.base_facts import BaseFacts, Recall, afresh, low_magnitude, within
from ckptaudit.metrics.batch import ALPHA, ETA, SHIFT_ERROR, Angles, Leverages, PairBatch, Side

SHORT_SIDE = 128
"""From this short side on a matrix is worth a batch of its own; below, decompositions cost next to nothing."""

CHEAP_SIDE = 512
"""Below this short side float64 takes so little longer that nearly all of its digits are worth having."""

CHEAP_ERROR = 1e-4
"""Largest estimated relative error of a spectral shift there."""

CHANGE_ERROR = 2e-3
"""Largest error of the change of the Gram matrix, relative to what turns a subspace, with which it is followed."""

NARROW = (torch.bfloat16, torch.float16, torch.float32)

SQUARABLE_BASE, SQUARABLE = (1e-4, 1e6), (1e-9, 1e6)
"""Sizes of base and update whose Gram matrices float32 holds, squares of differences of their entries included."""

LEAST_UPDATE = 1e-25
GREATEST_UPDATE = 1e18
"""Past it, squares overflow in float32."""


class LargePair(PairBatch):
    """A batch of one, stored in bf16, fp16 or float32. `recall` keeps what is known of the base.

    Every part that it computes in its own way is certified; where that fails, the float64 one stands in.
    """

    def __init__(
        self,
        base: Shaped[Tensor, "m n"],
        tuned: Shaped[Tensor, "m n"],
        recall: Recall = afresh,
        *,
        exact: bool = False,
    ) -> None:
        super().__init__(base[None], tuned[None])
        self._recall = recall
        self._exact = exact

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
        return self._whole if self._exact else self._led

    @cached_property
    def _led(self) -> BaseFacts | None:
        return base_facts.led(self.stored_base[0], self._recall, k=self.k, rank=self.mask_rank)

    @cached_property
    def _whole(self) -> BaseFacts | None:
        return base_facts.whole(self.stored_base[0], self._recall, k=self.k, rank=self.mask_rank)

    @cached_property
    def images(self) -> bounds.Images | None:
        """The base's leading directions under the update."""
        if self._top is None or not (self.size == 0 or self.size > LEAST_UPDATE):
            return None
        return bounds.images(self.difference.update, self._top, k=self.k, size=self.size)

    @cached_property
    def angle_sines(self) -> tuple[float, float] | None:
        """Bounds on the largest and the root mean square sine between the top-k subspaces of either side."""
        if self._top is None or self.images is None:
            return None
        return bounds.angle_sines(self.images, self._top, k=self.k)

    @cached_property
    def turned(self) -> float | None:
        """Bound on the sine of the rotation of either side."""
        if self._top is None or self.images is None:
            return None
        return bounds.turned(self.images, self._top, k=self.k, share=1.0 - SEPARATION)

    @cached_property
    def turned_rms(self) -> tuple[float, float] | None:
        """Bounds on the root mean square sine of the rotation of the left and the right side."""
        if self._top is None or self.images is None:
            return None
        return bounds.turned_rms(self.images, self._top, k=self.k, share=1.0 - SEPARATION)

    @property
    def _top(self) -> Leading | None:
        return self.facts.top if self.facts is not None else None

    @property
    def size(self) -> float:
        """Bound on norm_F(D)."""
        return math.sqrt(self.difference.square_sum) * (1 + 2 * UNIT)

    @cached_property
    def norm_floor(self) -> float:
        """Lower bound on norm_2(D)."""
        if not within(self.size, (LEAST_UPDATE, GREATEST_UPDATE)):
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
        return self._share(low_magnitude(self.stored_base[0]))

    @cached_property
    def principal_share(self) -> Float64[Tensor, "batch"]:
        """Of the changed entries, the share among the floor(alpha m n) largest of the base's leading part."""
        return super().principal_share if self.facts is None else self._share(self.facts.principal)

    @cached_property
    def censuses(self) -> tuple[Census, ...]:
        """How many weights of W0 lie in each binade."""
        known = self.__dict__.get("facts")
        return (known.census,) if known is not None else super().censuses

    @cached_property
    def principal_binades(self) -> tuple[Tensor, ...]:
        """The same of the weights in the principal mask."""
        return super().principal_binades if self.facts is None else (self.facts.principal_binades,)

    @cached_property
    def leverages(self) -> Leverages:
        """Of the grid's rows and columns."""
        if self.facts is None:
            return super().leverages
        (rows, columns), top = self.grid, self.facts.top
        if top is not None:
            left, right = top.left[rows, : self.k], top.right[columns, : self.k]
            return left.double().square().sum(dim=1)[None], right.double().square().sum(dim=1)[None]
        return self._leverages_of_short(rows, columns)

    def _leverages_of_short(self, rows: slice, columns: slice) -> Leverages:
        assert self.facts is not None
        assert self.facts.spectrum is not None  # one of the two is known
        known = self.facts.spectrum
        long, short = (rows, columns) if self.m >= self.n else (columns, rows)
        vectors = known.short[:, : self.k].double()
        images = self._tall(self.stored_base[0])[long].double() @ vectors / known.s[: self.k]
        found = (images.square().sum(dim=1)[None], vectors[short].square().sum(dim=1)[None])
        return found if self.m >= self.n else found[::-1]

    @cached_property
    def captured(self) -> Float64[Tensor, "batch"]:
        """norm_F(U0k' D V0k)^2."""
        if self._exact and self.followed is not None:
            return self._one(self.followed.captured(self.k))
        return super().captured if self.images is None else self._one(self.images.captured)

    @cached_property
    def gap(self) -> Float64[Tensor, "batch"]:
        """(s_k(W0) - s_{k+1}(W0)) / s_k(W0)."""
        if self.facts is None:
            return super().gap
        known = self.facts.top or self.facts.spectrum
        assert known is not None  # one of the two
        s = known.s
        return ((s[self.k - 1] - s[self.k]) / s[self.k - 1])[None] if self.k < len(s) else self._one(1.0)

    @cached_property
    def own(self) -> Float32[Tensor, "r r"]:
        """Gram matrix of the update over its short side."""
        # Both products together take less than one after the other, but the first is not always wanted.
        if self._exact or "_products" in self.__dict__:
            return self._products[1]
        return own_product(self._tall(self.difference.update), share=self._changed_share)

    @cached_property
    def _products(self) -> tuple[Float32[Tensor, "r r"], Float32[Tensor, "r r"]]:
        """Products of the update with the base and with itself."""
        sides = (self.stored_base[0], self.difference.update)
        return products(*(self._tall(side) for side in sides), share=self._changed_share)

    @property
    def _changed_share(self) -> float:
        return self.difference.differing_count / (self.m * self.n)

    @cached_property
    def followed(self) -> Followed | TunedGram | None:
        """The tuned decomposition as what the update makes of the base's; None outside of float32's range."""
        known = self._whole.spectrum if self._whole is not None else None
        if known is None or not within(float(known.s[0]), SQUARABLE_BASE):
            return None
        if not (self.size == 0 or within(self.size, SQUARABLE)):
            return None
        cross, own = self._products
        if known.gram is None:
            return Followed(known.s, known.short, cross=cross, own=own)
        return TunedGram(known.s, known.short, known.gram, cross=cross, own=own)

    @cached_property
    def change_error(self) -> float:
        """Error of what `followed` rests on."""
        assert self.followed is not None  # asked for by those who have looked
        sides = (self.stored_base[0], self.stored_tuned[0], self.difference.update)
        return change_error(self.followed.act, *(self._tall(side) for side in sides))

    @cached_property
    def shift(self) -> Float64[Tensor, "batch"]:
        """norm(s(W1) - s(W0))."""
        if self.size == 0:
            return self._one(0.0)
        if self.followed is not None:
            shift = self.followed.shift()
            room = SHIFT_ERROR if min(self.m, self.n) >= CHEAP_SIDE else CHEAP_ERROR
            if self.followed.shift_error(self.change_error) <= room * shift:
                return self._one(shift)
        return super().shift

    @cached_property
    def turns(self) -> tuple[Turn, Turn] | None:
        """How the base's top-k subspaces turned against the tuned ones: of size k, and near-ties at k taken in."""
        if self.size == 0:
            still = torch.zeros(self.k, dtype=torch.float64, device=self.stored_base.device)
            return Turn(still, still), Turn(still, still)
        if self.followed is None:
            return None
        if not self.change_error <= CHANGE_ERROR * self.followed.coupling(self.k):
            return None
        above = self.followed.tuned_squares.sqrt() > (1.0 - SEPARATION) * self.followed.s[self.k - 1]
        return self.followed.turns(self.k, max(self.k, int(above.sum())))

    def angles(self, side: Side) -> Angles:
        """Angles between the top-k subspaces of one side."""
        return super().angles(side) if self.turns is None else self._turned(self.turns[0], side)

    def rotation(self, side: Side) -> Angles:
        """Angles from the base's top-k subspace to the tuned one, near-ties at k taken in."""
        return super().rotation(side) if self.turns is None else self._turned(self.turns[1], side)

    @cached_property
    def update_s(self) -> Float[Tensor, "batch c"]:
        """The first k + 1 singular values of D, descending, or all."""
        if within(self.size, SQUARABLE):
            values = update_values(self.own, min(self.k + 1, self.m, self.n))
            if values is not None:
                return values[None]
        return super().update_s

    def _turned(self, turn: Turn, side: Side) -> Angles:
        # The right vectors are those of a tall matrix, which a wide one is when transposed.
        found = turn.right if (side == "right") is (self.m >= self.n) else turn.left
        rms = torch.deg2rad(found).sin().square().mean().sqrt().clamp(max=1.0)
        return found[-1:], found.mean()[None], torch.rad2deg(rms.asin())[None]

    def _tall(self, matrix: Shaped[Tensor, "m n"]) -> Shaped[Tensor, "a b"]:
        return matrix if self.m >= self.n else matrix.mT

    def _one(self, value: float | int) -> Float64[Tensor, "1"]:
        return torch.tensor([value], dtype=torch.float64, device=self.stored_base.device)

    def _share(self, bits: UInt8[Tensor, "_"]) -> Float64[Tensor, "1"]:
        total = self.difference.changed_count
        inside = count_common(bits, self._marks)
        return self._one(inside / total if total else ALPHA)

    @cached_property
    def _marks(self) -> UInt8[Tensor, "_"]:
        return packed(self.difference.changed.flatten())


def bound_of(evaluate: Callable[[LargePair], float | None]) -> Callable[[PairBatch], Tensor | None]:
    """A bound that large matrices have, and those alone."""

    def bound(batch: PairBatch) -> Tensor | None:
        value = evaluate(batch) if isinstance(batch, LargePair) else None
        return None if value is None else batch.update_norm.new_tensor([value])

    return bound
