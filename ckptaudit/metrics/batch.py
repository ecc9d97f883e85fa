"""Same-shaped matrices of both sides on one device, with parts that several metrics share, each computed once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self, TypeVar

import torch
from jaxtyping import Bool, Float, Float64, Int, Shaped
from torch import Tensor

from ckptaudit.linalg.blind_updates import BlindUpdate, Census, censuses, censuses_among, sample
from ckptaudit.linalg.factors import ANGLE_ERROR, SMALL, Factors, direct_values, singular_values
from ckptaudit.linalg.masks import in_top, share_in_top, visibly_changed
from ckptaudit.linalg.parts import cached_property
from ckptaudit.linalg.spectra import hill_alpha, relative_gap, stable_rank
from ckptaudit.linalg.subspaces import captured_energy, separated_size, top_angles
from ckptaudit.metrics.estimates import Estimate, derived

ETA = 1e-3
ALPHA = 0.5
MAX_SUBSPACE = 512
MAX_MASK_RANK = 64

SQUARABLE = (1e-30, 1e30)
"""Sizes of float64 entries that bf16 holds as well, and whose fourth powers float64 sums with all digits."""

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


class PairBatch:
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
