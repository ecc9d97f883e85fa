"""How far two updates agree: in the directions they use, and in the entries they change."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NOISE = 1e-7
"""Below this share of the largest singular value a direction of the Gram matrix is rounding."""


def leading_right(
    update: Float[Tensor, "batch m n"], k: int
) -> tuple[Float[Tensor, "batch n k"], Float[Tensor, "batch r"]]:
    """The top k right singular vectors and all singular values, descending; zero columns where the rank ends.

    From the Gram matrix of the shorter side, which gives leading directions to full accuracy and small
    singular values to NOISE of the largest only. The vectors span what `numpy.linalg.svd(update)[2][:k]` spans.
    """
    tall = update.shape[1] >= update.shape[2]
    gram = update.mT @ update if tall else update @ update.mT
    squares, vectors = torch.linalg.eigh(gram)
    s = squares.flip(1).clamp(min=0).sqrt()
    top = vectors.flip(2)[:, :, :k]
    present = s[:, None, :k] > NOISE * s[:, :1, None]
    if not tall:
        top = update.mT @ top / s[:, None, :k].clamp(min=torch.finfo(s.dtype).tiny)
    return torch.where(present, top, torch.zeros_like(top)), s


def subspace_similarity(x: Float[Tensor, "batch n k"], y: Float[Tensor, "batch n k"]) -> Float[Tensor, "batch"]:
    """norm_F(x'y)^2 / K, the mean squared cosine between both spaces: 1 for one space, 0 for orthogonal ones.

    Columns are orthonormal or zero; K is the smaller count of columns that are there. NaN where there is none.
    """
    counted = torch.minimum(_columns(x), _columns(y)).to(x.dtype)
    return (x.mT @ y).square().sum(dim=(1, 2)) / torch.where(counted > 0, counted, torch.nan)


def shared_entries(masks: Bool[Tensor, "runs batch m n"]) -> Int[Tensor, "runs runs batch"]:
    """How many entries each two masks have in common; on the diagonal, how many each has."""
    runs, batch = masks.shape[:2]
    counts = torch.zeros(runs, runs, batch, dtype=torch.int64)
    for i in range(runs):
        for j in range(i, runs):
            counts[i, j] = counts[j, i] = (masks[i] & masks[j]).sum(dim=(1, 2))
    return counts


def jaccard(
    both: Float[Tensor, "..."], one: Float[Tensor, "..."], other: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """|A & B| / |A | B| from counts or shares; NaN for two empty sets."""
    union = one + other - both
    return both / torch.where(union > 0, union, torch.nan)


def beyond_chance(
    both: Float[Tensor, "..."], one: Float[Tensor, "..."], other: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """(both - one other) / (min(one, other) - one other), for shares of all entries.

    0 where two masks meet as often as independent ones of their sizes, 1 where one holds the other,
    negative where they avoid each other. NaN where a mask is empty or full: then there is nothing to agree on.
    """
    room = torch.minimum(one, other) - one * other
    return (both - one * other) / torch.where(room > 0, room, torch.nan)


def _columns(x: Float[Tensor, "batch n k"]) -> Int[Tensor, "batch"]:
    return (x.abs().amax(dim=1) > 0).sum(dim=1)
