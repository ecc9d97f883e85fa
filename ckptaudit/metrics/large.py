"""One large matrix of both sides, measured by matrix products against what is known of the base."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from ckptaudit.linalg.census import Census
from ckptaudit.linalg.changes import (
    ANGLE_ERROR,
    VALUE_ERROR,
    SubspaceAngles,
    change_error,
    cross_product,
    own_product,
    update_values,
)
from ckptaudit.linalg.gram import singular_values, tall
from ckptaudit.linalg.lanczos import spectral_norm
from ckptaudit.linalg.leading import CERTAIN
from ckptaudit.linalg.parts import cached_property
from ckptaudit.linalg.products import UNIT
from ckptaudit.linalg.ritz import RitzRotation, ritz_rotation
from ckptaudit.linalg.subspaces import SEPARATION, rms_angle
from ckptaudit.linalg.tuned_gram import TunedGram
from ckptaudit.metrics import base_facts
from ckptaudit.metrics.base_facts import low_magnitude, within
from ckptaudit.metrics.batch import SHIFT_ERROR, Angles, Leverages, PairBatch, Side
from ckptaudit.metrics.bounded_pair import BoundedPair
from ckptaudit.metrics.estimates import Estimate
from ckptaudit.metrics.measurement import Method

SHORT_SIDE = 128
"""From this short side on a matrix is worth a batch of its own; below, decompositions cost next to nothing."""

CHEAP_SIDE = 512
"""Below this short side float64 takes so little longer that nearly all of its digits are worth having."""

CHEAP_ERROR = 1e-4
"""Largest estimated relative error of a spectral shift there."""

CHANGE_ERROR = 2e-3
"""Largest error of the change of the Gram matrix, relative to what rotates a subspace, with which it is used."""

NARROW = (torch.bfloat16, torch.float16, torch.float32)

SQUARABLE_BASE, SQUARABLE = (1e-4, 1e6), (1e-9, 1e6)
"""Sizes of base and update whose Gram matrices float32 holds, squares of differences of their entries included."""


class LargePair(BoundedPair):
    """A stored pair worth fast ways of its own. `lookup` finds what is known of the base.

    Every part that it computes in a way of its own is certified; where that fails, the float64 one stands in. Which
    way a part takes follows from the matrices and from `exact` alone, never from what was asked before.
    """

    @cached_property
    def base_norm(self) -> Float64[Tensor, "batch"]:
        """norm_F(W0)."""
        known = self._prepared
        return self._one(known.norm if known is not None else base_facts.norm(self.stored_base[0]))

    @cached_property
    def low_magnitude_share(self) -> Float64[Tensor, "batch"]:
        """Of the changed entries, the share among the floor(alpha m n) smallest of the base."""
        known = self._prepared
        return self._share(known.low_magnitude if known is not None else low_magnitude(self.stored_base[0]))

    @cached_property
    def principal_share(self) -> Estimate:
        """Of the changed entries, the share among the floor(alpha m n) largest of the base's leading part."""
        return (
            super().principal_share if self.facts is None else Estimate(self._share(self.facts.principal), "gram")
        )

    @cached_property
    def censuses(self) -> tuple[Census, ...]:
        """How many weights of W0 lie in each binade."""
        known = self._prepared
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
        images = tall(self.stored_base[0])[long].double() @ vectors / known.s[: self.k]
        found = (images.square().sum(dim=1)[None], vectors[short].square().sum(dim=1)[None])
        return found if self.m >= self.n else found[::-1]

    @cached_property
    def outside(self) -> Estimate:
        """norm_F(D)^2 - norm_F(U0k' D V0k)^2."""
        if self._exact and self.tuned_gram is not None:
            return self._outside(self.tuned_gram.captured(self.k), UNIT * self.size**2)
        if self.images is None:
            return super().outside
        return self._outside(self.images.captured(self.k), self.images.captured_error(self.k))

    def _outside(self, captured: float, error: float) -> Estimate:
        return self._estimate(max(0.0, self.difference.square_sum - captured), "gram", error)

    @cached_property
    def gap(self) -> Estimate:
        """(s_k(W0) - s_{k+1}(W0)) / s_k(W0)."""
        if self.facts is None:
            return super().gap
        known = self.facts.top or self.facts.spectrum
        assert known is not None  # one of the two
        s, k = known.s, self.k
        return self._estimate(
            float((s[k - 1] - s[k]) / s[k - 1]) if k < min(self.m, self.n) else 1.0, "gram", CERTAIN
        )

    @cached_property
    def own(self) -> Float32[Tensor, "r r"]:
        """Gram matrix of the update over its short side."""
        return own_product(tall(self.difference.update))

    @cached_property
    def tuned_gram(self) -> TunedGram | None:
        """The tuned side by what the update adds to the base's Gram matrix; None out of float32's range."""
        known = self._spectrum_facts.spectrum if self._spectrum_facts is not None else None
        if known is None or not within(float(known.s[0]), SQUARABLE_BASE):
            return None
        if not (self.size == 0 or within(self.size, SQUARABLE)):
            return None
        cross = cross_product(tall(self.stored_base[0]), tall(self.difference.update))
        return TunedGram(known.s, known.short, known.gram, cross=cross, own=self.own)

    @cached_property
    def change_error(self) -> float:
        """Error of what `tuned_gram` rests on."""
        assert self.tuned_gram is not None  # asked for by those who have looked
        sides = (self.stored_base[0], self.stored_tuned[0], self.difference.update)
        return change_error(self.tuned_gram.act, *(tall(side) for side in sides))

    @cached_property
    def shift(self) -> Estimate:
        """norm(s(W1) - s(W0))."""
        if self.size == 0:
            return Estimate(self._one(0.0))
        room = SHIFT_ERROR if min(self.m, self.n) >= CHEAP_SIDE else CHEAP_ERROR
        if self.top is not None and self.top.every.error <= room * self.size:
            # The shift is no larger than the update: else the base's values alone are too far off.
            shift, error = singular_values(self.stored_tuned[0]).shift_from(self.top.every)
            if error <= room * shift:
                return self._estimate(shift, "gram", error)
        if self.tuned_gram is not None:
            shift, error = self.tuned_gram.shift(), self.tuned_gram.shift_error(self.change_error)
            if error <= room * shift:
                return self._estimate(shift, "gram", error)
        return super().shift

    @cached_property
    def subspaces(self) -> tuple[SubspaceAngles, SubspaceAngles] | None:
        """Angles from the base's top-k subspaces to the tuned ones: of size k, and near-ties at k taken in."""
        if self.size == 0:
            still = torch.zeros(self.k, dtype=torch.float64, device=self.stored_base.device)
            return SubspaceAngles(still, still), SubspaceAngles(still, still)
        if self.tuned_gram is None or not self._change_share <= CHANGE_ERROR:
            return None
        above = self.tuned_gram.tuned_squares.sqrt() > (1.0 - SEPARATION) * self.tuned_gram.s[self.k - 1]
        return self.tuned_gram.angles(self.k, max(self.k, int(above.sum())))

    @cached_property
    def _change_share(self) -> float:
        """Error of the change of the Gram matrix, relative to what of it rotates the top k."""
        assert self.tuned_gram is not None  # asked for by those who have looked
        coupling = self.tuned_gram.coupling(self.k)
        return self.change_error / coupling if coupling > 0 else math.inf

    @cached_property
    def ritz(self) -> RitzRotation | None:
        """The rotation by Rayleigh-Ritz steps from the base's leading directions, where no bound settles it."""
        if self.top is None or min(self.m, self.n) < base_facts.ITERATIVE_SIDE or not within(self.size, SQUARABLE):
            return None
        if not within(float(self.top.s[0]), SQUARABLE_BASE):
            return None
        return ritz_rotation(self.top, self.stored_tuned[0], k=self.k, share=1.0 - SEPARATION)

    def angles(self, side: Side) -> Angles:
        """Angles between the top-k subspaces of one side."""
        return super().angles(side) if self.subspaces is None else self._principal_angles(self.subspaces[0], side)

    def rotation(self, side: Side) -> Angles:
        """Angles from the base's top-k subspace to the tuned one, near-ties at k taken in."""
        if not self._exact and self.size > 0 and self.ritz is not None:
            found, error = self.ritz.angles, self.ritz.error
            # As much as the subspaces may be off, so much may any angle, and the three means of them all.
            return self._summaries(found.left if side == "left" else found.right, "iterative", lambda _: error)
        return super().rotation(side) if self.subspaces is None else self._principal_angles(self.subspaces[1], side)

    def _principal_angles(self, angles: SubspaceAngles, side: Side) -> Angles:
        if self.size == 0:
            return Angles(*(Estimate(self._one(0.0)) for _ in range(3)))
        # The right vectors are those of a tall matrix, which a wide one is when transposed.
        found = angles.right if (side == "right") is (self.m >= self.n) else angles.left
        rounding = math.degrees(ANGLE_ERROR)
        return self._summaries(found, "gram", lambda angle: self._change_share * angle + rounding)

    def _summaries(self, found: Float64[Tensor, "k"], method: Method, error: Callable[[float], float]) -> Angles:
        means = (float(found[-1]), float(found.mean()), float(rms_angle(found[None], len(found))))
        return Angles(*(self._estimate(angle, method, error(angle)) for angle in means))

    @cached_property
    def _fast_update_s(self) -> Float64[Tensor, "c"] | None:
        if not within(self.size, SQUARABLE):
            return None
        return update_values(self.own, min(self.k + 1, self.m, self.n))

    @cached_property
    def update_s(self) -> Float[Tensor, "batch c"]:
        """The first k + 1 singular values of D, descending, or all."""
        return super().update_s if self._fast_update_s is None else self._fast_update_s[None]

    @property
    def update_s_error(self) -> float:
        """Largest relative error of any of them."""
        return super().update_s_error if self._fast_update_s is None else VALUE_ERROR / 2

    @cached_property
    def spectral_norm(self) -> Estimate:
        """norm_2(D)."""
        # A card multiplies a hundred vectors sooner than it finds all eigenvalues; on a CPU others want these too.
        by_values = self._exact and self.stored_base.device.type == "cpu"
        if by_values or min(self.m, self.n) < base_facts.ITERATIVE_SIDE or not within(self.size, SQUARABLE):
            return super().spectral_norm
        norm, error = spectral_norm(self.difference.update)
        return self._estimate(norm, "iterative", error)


def bound_of(evaluate: Callable[[LargePair], float | None]) -> Callable[[PairBatch], Tensor | None]:
    """A bound that large matrices have, and those alone."""

    def bound(batch: PairBatch) -> Tensor | None:
        value = evaluate(batch) if isinstance(batch, LargePair) else None
        return None if value is None else batch.update_norm.new_tensor([value])

    return bound
