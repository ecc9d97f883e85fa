"""Intruder dimensions: leading singular vectors of the tuned matrix that have no counterpart in the base."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ckptaudit.linalg.spectra import numerical_rank
from ckptaudit.metrics.batch import PairBatch
from ckptaudit.metrics.matrix import metric

LEADING = 10
SIMILAR = 0.5

SOURCE = "arXiv:2410.21228; epsilon and k as in the script its authors publish"
COUNT = "#{j <= k : max_i |x_i' y_j| < 0.5}, x of W0 with s_i > 0, y of W1 with s_j > 0, k = min(10, r)"


@metric(
    unit="directions",
    scale="count",
    formula=f"{COUNT}, left singular vectors",
    source=SOURCE,
    needs="spectrum",
    standing=False,
)
def intruder_dimensions_left(batch: PairBatch) -> Tensor:
    """Number of the tuned matrix's ten leading left singular vectors that resemble none of the base's.

    Two unrelated matrices read k as soon as they have some hundred rows; below about twenty rows chance
    alone gives every vector a counterpart.
    """
    return (_similarities(batch)[0] < SIMILAR).sum(dim=1).double()


@metric(
    unit="directions",
    scale="count",
    formula=f"{COUNT}, right singular vectors",
    source=f"{SOURCE}, there for the left side",
    needs="spectrum",
    standing=False,
)
def intruder_dimensions_right(batch: PairBatch) -> Tensor:
    """The same count for the right singular vectors, the input directions."""
    return (_similarities(batch)[1] < SIMILAR).sum(dim=1).double()


@metric(
    unit="1",
    scale="share",
    formula="min_{j <= k} max_i |x_i' y_j| over both sides, k = min(10, r); 1 where W1 is zero",
    source=f"{SOURCE}; the minimum is ours",
    needs="spectrum",
    standing=False,
)
def least_similar_direction(batch: PairBatch) -> Tensor:
    """Resemblance to the base of the least familiar leading direction: below 0.5 it is an intruder."""
    left, right = _similarities(batch)
    return torch.minimum(left, right).amin(dim=1).clamp(max=1.0)


def _similarities(batch: PairBatch) -> tuple[Float[Tensor, "batch k"], Float[Tensor, "batch k"]]:
    return batch.shared("intruder_similarities", lambda: _measured(batch))


def _measured(batch: PairBatch) -> tuple[Float[Tensor, "batch k"], Float[Tensor, "batch k"]]:
    """Largest |cosine| of each leading tuned vector with any of the base's, by side.

    A singular vector of the value 0 is arbitrary: on the base's side it is no counterpart, on the tuned
    side it is no direction, and counts as familiar.
    """
    u0, s0, v0h = torch.linalg.svd(batch.base, full_matrices=False)
    u1, s1, v1h = torch.linalg.svd(batch.tuned, full_matrices=False)
    k = min(LEADING, s1.shape[1])
    there, real = (_above_zero(s, batch) for s in (s0, s1))
    known = [x.abs().masked_fill(~there[:, :, None], 0.0) for x in (u0.mT @ u1[:, :, :k], v0h @ v1h[:, :k].mT)]
    left, right = (cosines.amax(dim=1).masked_fill(~real[:, :k], 1.0) for cosines in known)
    return left, right


def _above_zero(s: Float[Tensor, "batch r"], batch: PairBatch) -> Tensor:
    rank = numerical_rank(s, m=batch.m, n=batch.n)
    return torch.arange(s.shape[1], device=s.device) < rank[:, None]
