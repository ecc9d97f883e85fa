"""Same-shaped matrices of both sides on one device, with parts that several metrics share, each computed once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ckptaudit.linalg.blind_updates import BlindUpdate
from ckptaudit.linalg.census import Census, censuses, censuses_among, sample
from ckptaudit.linalg.factors import ANGLE_ERROR, SMALL, Factors, direct_values, singular_values
from ckptaudit.linalg.masks import in_top, share_in_top
from ckptaudit.linalg.parts import cached_property
from ckptaudit.linalg.spectra import hill_alpha, relative_gap, stable_rank
from ckptaudit.linalg.subspaces import captured_energy, separated_size, top_angles
from ckptaudit.metrics.estimates import Estimate
from ckptaudit.metrics.weight_batch import ALPHA, WeightBatch

SHIFT_ERROR = 5e-3
"""Largest certified relative error of a spectral shift with which the cheap route is taken."""

Side = Literal["left", "right"]
VALUE_ERROR = 1e-6
"""Largest relative error of a singular value of the update."""

Result = TypeVar("Result")

Leverages = tuple[Tensor, Tensor]
"""How much of each of some rows and columns lies in the top-k subspaces: squared norms of rows of U0k and V0k."""

PRECISION = {torch.bfloat16: 8, torch.float16: 11, torch.float32: 24}
GRID = (64, 256)
"""Rows and columns, at most, of the entries that stand for all where their size is set against their place."""


@dataclass(frozen=True)
class Angles:
    """The largest, the mean and the root mean square angle, in degrees, of each matrix of the batch."""

    largest: Estimate
    mean: Estimate
    rms: Estimate


class PairBatch(WeightBatch):
    """A batch with its decompositions, and what is shared of them."""

    @cached_property
    def principal_share(self) -> Estimate:
        """Of the changed entries, the share among the floor(alpha m n) largest of the base's leading part."""
        overlap = share_in_top(self.base_factors.part(self.mask_rank).abs(), self.changed, alpha=ALPHA)
        # A zero base has no principal entry; every mask would be arbitrary, so it reads the baseline.
        return Estimate(torch.where(self.base_factors.s[:, 0] > 0, overlap, torch.full_like(overlap, ALPHA)))

    @cached_property
    def outside(self) -> Estimate:
        """norm_F(D)^2 - norm_F(U0k' D V0k)^2, the update's energy outside of the base's top-k subspaces."""
        factors = self.base_factors
        captured = captured_energy(self.update, factors.left(self.k), factors.right(self.k))
        return Estimate((self.update_norm.square() - captured).clamp(min=0))

    @property
    def outside_share(self) -> Estimate:
        """The same as a share of norm_F(D)^2; 0 for a zero update."""
        moved, outside = self.update_norm > 0, self.outside
        square = torch.where(moved, self.update_norm, torch.ones_like(self.update_norm)).square()
        return replace(
            outside,
            values=torch.where(moved, outside.values / square, 0.0),
            error=None if outside.error is None else outside.error / square,
        )

    @cached_property
    def gap(self) -> Estimate:
        """(s_k(W0) - s_{k+1}(W0)) / s_k(W0)."""
        return Estimate(relative_gap(self.base_factors.s, self.k))

    @cached_property
    def shift(self) -> Estimate:
        """norm(s(W1) - s(W0)) over all singular values, descending."""
        before, after = self.base_factors, self.tuned_factors
        moved: Tensor = torch.linalg.vector_norm(after.s - before.s, dim=1)
        error = before.s_error + after.s_error
        doubtful = (error > SHIFT_ERROR * moved) & (self.update_norm > 0)
        if bool(doubtful.any()):
            # Too small a shift for the cheap route's certified error: these few are decomposed directly.
            exact = [direct_values(side[doubtful]) for side in (self.base, self.tuned)]
            moved[doubtful] = torch.linalg.vector_norm(exact[1] - exact[0], dim=1)
            error = error.masked_fill(doubtful, 0.0)
        return Estimate(moved, "gram", error) if bool(error.any()) else Estimate(moved)

    def angles(self, side: Side) -> Angles:
        """Angles between the top-k subspaces of one side, directions that the tuned matrix lost included."""
        return self._angles(f"angles_{side}", side, lambda: self.tuned_factors.rank.clamp(max=self.k))

    def rotation(self, side: Side) -> Angles:
        """Angles from the base's top-k subspace to the tuned one, near-ties taken in (docs/rotation.md)."""
        return self._angles(f"rotation_{side}", side, self._separated)

    def _separated(self) -> Int[Tensor, "batch"]:
        before, after = self.base_factors, self.tuned_factors
        return torch.minimum(separated_size(before.s, after.s, k=self.k), after.rank)

    def _angles(self, key: str, side: Side, tuned_size: Callable[[], Int[Tensor, "batch"]]) -> Angles:
        found = self.shared(key, lambda: self._principal(side, tuned_size()))
        by_gram = self.base_factors.by_gram | self.tuned_factors.by_gram
        if not bool(by_gram.any()):
            return Angles(*(Estimate(values) for values in found))
        error = 2 * math.degrees(ANGLE_ERROR) * by_gram.double()
        return Angles(*(Estimate(values, "gram", error) for values in found))

    def _principal(self, side: Side, tuned_size: Int[Tensor, "batch"]) -> tuple[Tensor, Tensor, Tensor]:
        before, after = self.base_factors, self.tuned_factors
        widest = max(1, int(tuned_size.max()))
        return top_angles(
            before.left(self.k) if side == "left" else before.right(self.k),
            after.left(widest) if side == "left" else after.right(widest),
            base_rank=before.rank,
            tuned_size=tuned_size,
            k=self.k,
        )

    def shared(self, key: str, compute: Callable[[], Result]) -> Result:
        """Results that several metrics read off one computation."""
        if key not in self.__dict__:
            self.__dict__[key] = compute()
        result: Result = self.__dict__[key]
        return result

    @cached_property
    def censuses(self) -> tuple[Census, ...]:
        """Of each matrix, how many weights of W0 lie in each binade."""
        return censuses(self.in_range[0])

    @cached_property
    def principal_binades(self) -> tuple[Tensor, ...]:
        """The same of the weights in the principal mask, of the same sample."""
        part = self.base_factors.part(self.mask_rank).abs().flatten(1)
        marked = in_top(part, count=int(ALPHA * part.shape[1]))[:, sample(self.m, self.n)]
        return tuple(censuses_among(self.in_range[0], marked))

    @cached_property
    def blind(self) -> tuple[BlindUpdate, ...]:
        """Of each matrix, the blind update of the same norm that changes as many of its entries visibly."""
        entries = max(1, self.m * self.n)
        visible, energy = self.changed_count / entries, self.update_norm.square() / entries
        facts = zip(self.censuses, visible.tolist(), energy.tolist(), self.precisions, strict=True)
        return tuple(BlindUpdate(*known) for known in facts)

    @cached_property
    def precisions(self) -> tuple[int, ...]:
        """Of each matrix, the bits of precision that W1 was rounded to; a bf16 matrix may be stored as another."""
        bits = PRECISION.get(self.stored_tuned.dtype, 53)
        if bits == 8:
            return (bits,) * len(self.stored_tuned)
        return tuple(8 if known.on_grid else bits for known in censuses(self.in_range[1]))

    @property
    def grid(self) -> tuple[slice, slice]:
        """Rows and columns that stand for all."""
        return slice(None, None, -(-self.m // GRID[0])), slice(None, None, -(-self.n // GRID[1]))

    @cached_property
    def leverages(self) -> Leverages:
        """Of the grid's rows and columns."""
        (rows, columns), factors = self.grid, self.base_factors
        left, right = factors.left(self.k)[:, rows], factors.right(self.k)[:, columns]
        return left.square().sum(dim=2), right.square().sum(dim=2)

    @cached_property
    def base_factors(self) -> Factors:
        """Decomposition of W0."""
        return Factors(self.base, self.cuts)

    @cached_property
    def tuned_factors(self) -> Factors:
        """Decomposition of W1."""
        return Factors(self.tuned, self.cuts)

    @cached_property
    def update_s(self) -> Float[Tensor, "batch c"]:
        """Singular values of D, descending: all, or those that are asked for, the first k + 1."""
        return singular_values(self.update, trusted=self.k + 1)

    @property
    def update_s_error(self) -> float:
        """Largest relative error of any of them; 0 for that of float64 rounding."""
        return VALUE_ERROR if min(self.m, self.n) >= SMALL else 0.0

    @property
    def spectral_norm(self) -> Estimate:
        """norm_2(D)."""
        norm = self.update_s[:, 0]
        return Estimate(norm, "gram", self.update_s_error * norm) if self.update_s_error else Estimate(norm)

    @property
    def stable_rank(self) -> Estimate:
        """norm_F(D)^2 / norm_2(D)^2, at most the short side."""
        norm = self.spectral_norm
        values = stable_rank(self.update_norm, norm.values).clamp_max(min(self.m, self.n))
        return Estimate(values, norm.method, None if norm.error is None else 2 * norm.relative_error * values)

    @property
    def hill(self) -> Estimate:
        """Hill's estimate over the top k singular values of D; an error of theirs enters k times, twice."""
        alpha, error = hill_alpha(self.update_s, self.k), self.update_s_error
        return Estimate(alpha, "gram", 2 * error * alpha.square()) if error else Estimate(alpha)
