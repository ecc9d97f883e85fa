"""Same-shaped matrices of both sides on one device, with parts that several metrics share, each computed once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from ckptaudit.linalg.factors import Factors, singular_values
from ckptaudit.linalg.masks import visibly_changed

ETA = 1e-3
ALPHA = 0.5
MAX_SUBSPACE = 512
MAX_MASK_RANK = 64


class PairBatch:
    """`base` and `tuned` as stored, `[batch, m, n]`, and the float64 quantities derived from them.

    float64 holds every bf16, fp16 and fp32 value exactly, so the update is the true difference.
    """

    def __init__(self, base: Shaped[Tensor, "batch m n"], tuned: Shaped[Tensor, "batch m n"]) -> None:
        self.stored_base = base
        self.stored_tuned = tuned

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
        """W0 in float64."""
        return self.stored_base.double()

    @cached_property
    def tuned(self) -> Float[Tensor, "batch m n"]:
        """W1 in float64."""
        return self.stored_tuned.double()

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
        return visibly_changed(self.stored_base, self.stored_tuned, eta=ETA)

    @cached_property
    def base_factors(self) -> Factors:
        """Decomposition of W0."""
        return Factors(self.base, self.cuts)

    @cached_property
    def tuned_factors(self) -> Factors:
        """Decomposition of W1."""
        return Factors(self.tuned, self.cuts)

    @cached_property
    def update_s(self) -> Float[Tensor, "batch r"]:
        """Singular values of D, descending."""
        return singular_values(self.update, trusted=self.k + 1)

    def shared(self, key: str, compute: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """A pair of results that two metrics read off one computation."""
        if key not in self.__dict__:
            self.__dict__[key] = compute()
        result: tuple[Tensor, Tensor] = self.__dict__[key]
        return result
