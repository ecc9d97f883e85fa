"""Singular values and what is read off them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FLAT_TAIL = 1e6
"""Where the Hill estimate is capped: a spectrum this flat has no tail to speak of."""


def numerical_rank(s: Float[Tensor, "batch r"], *, m: int, n: int) -> Int[Tensor, "batch"]:
    """How many singular values stand above rounding, by the rule of `numpy.linalg.matrix_rank`.

    rank = #{i : s_i > s_1 max(m, n) eps}, with eps that of the dtype of `s`.
    """
    floor = s[:, :1] * (max(m, n) * torch.finfo(s.dtype).eps)
    return (s > floor).sum(dim=1)


def relative_distance(distance: Float[Tensor, "batch"], size: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Quotient distance / size, with the two cases without a quotient defined: 0 / 0 = 0, and x / 0 = 1.

    A tensor that was zero and no longer is has moved by all of itself.
    """
    quotient = distance / torch.where(size > 0, size, torch.ones_like(size))
    return torch.where(size > 0, quotient, (distance > 0).to(distance.dtype))


def stable_rank(size: Float[Tensor, "batch"], largest: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """norm_F^2 / norm_2^2 from the two norms, at least 1; 0 for a zero matrix."""
    ratio = size / torch.where(largest > 0, largest, torch.ones_like(largest))
    return torch.where(largest > 0, ratio.square().clamp_min(1.0), torch.zeros_like(largest))


def hill_alpha(s: Float[Tensor, "batch r"], k: int) -> Float[Tensor, "batch"]:
    """Hill's estimate of the tail index over the top k singular values.

    alpha = k / sum_{i<=k} ln(s_i / s_{k+1})     (Hill 1975)

    Small is heavy-tailed. Defined at the edges: 0 where fewer than k + 1 singular values are
    positive (the tail falls off a cliff), capped at 1e6 where the top is flat.
    """
    if k >= s.shape[1]:
        return torch.zeros_like(s[:, 0])
    reference = s[:, k : k + 1]
    positive = reference[:, 0] > 0
    logs = torch.log(s[:, :k] / torch.where(reference > 0, reference, s[:, :1].clamp_min(1e-300)))
    alpha = k / logs.sum(dim=1).clamp_min(k / FLAT_TAIL)
    return torch.where(positive, alpha, torch.zeros_like(alpha))


def relative_gap(s: Float[Tensor, "batch r"], k: int) -> Float[Tensor, "batch"]:
    """(s_k - s_{k+1}) / s_k: how well the top-k subspace is set apart; 1 if nothing follows, 0 for a zero s_k."""
    last = s[:, k - 1]
    following = s[:, k] if k < s.shape[1] else torch.zeros_like(last)
    return relative_distance(last - following, last).where(last > 0, torch.zeros_like(last))


def finite_rows(stack: Float[Tensor, "batch m n"]) -> Bool[Tensor, "batch"]:
    """Which matrices of the stack are free of NaN and infinity."""
    return stack.isfinite().flatten(1).all(dim=1)
