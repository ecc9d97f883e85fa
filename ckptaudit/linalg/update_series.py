"""Several updates of the same matrices side by side: their inner products, and how straight each weight went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

PIECE = 2**18
"""Entries of each update that are held in float64 at a time."""

STRAIGHT = 0.7
"""The coefficient of determination from which on a weight counts as moving along a line."""

Updates = Float[Tensor, "runs batch entries"]


def inner_products(updates: Updates) -> Float64[Tensor, "runs runs batch"]:
    """<D_i, D_j> of each two runs, summed in float64."""
    runs, batch = updates.shape[:2]
    total = torch.zeros(batch, runs, runs, dtype=torch.float64)
    for piece in _pieces(updates):
        by_matrix = piece.transpose(0, 1)
        total += (by_matrix @ by_matrix.mT).cpu()
    return total.permute(1, 2, 0)


def straight_weights(updates: Updates, steps: Sequence[int]) -> Float64[Tensor, "2 batch"]:
    """How many weights moved, and how many of them along a line with R^2 > 0.7, the base being step 0.

    R^2 is the squared correlation of a weight with the step number, as `numpy.corrcoef` gives it.
    """
    times = torch.tensor([0, *steps], dtype=torch.float64, device=updates.device)
    times = times - times.mean()
    spread = float(times.square().sum())
    total = torch.zeros(2, updates.shape[1], dtype=torch.float64)
    for piece in _pieces(updates):
        # The base's update is zero and adds to the number of points alone.
        points = len(steps) + 1
        sums = piece.sum(dim=0)
        scatter = (piece.square().sum(dim=0) - sums.square() / points).clamp(min=0)
        slope = torch.tensordot(times[1:], piece, dims=1)
        moved = (piece != 0).any(dim=0)
        straight = moved & (slope.square() > STRAIGHT * spread * scatter)
        total += torch.stack([moved.sum(dim=1), straight.sum(dim=1)]).double().cpu()
    return total


def cosines(products: Float64[Tensor, "runs runs batch"]) -> Float64[Tensor, "runs runs batch"]:
    """<D_i, D_j> / (norm(D_i) norm(D_j)) from the inner products; NaN where an update is zero."""
    norms = torch.diagonal(products, dim1=0, dim2=1).T.sqrt()
    sizes = torch.where(norms > 0, norms, torch.nan)
    return (products / sizes[:, None] / sizes[None]).clamp(-1.0, 1.0)


def leading_share(matrices: Float64[Tensor, "runs runs batch"]) -> Float64[Tensor, "batch"]:
    """The largest eigenvalue of a Gram matrix over the sum of them all; NaN where an entry is."""
    stack = matrices.permute(2, 0, 1)
    sound = stack.isfinite().flatten(1).all(dim=1)
    values = torch.linalg.eigvalsh(torch.where(sound[:, None, None], stack, torch.eye(stack.shape[1]).double()))
    return torch.where(sound, values[:, -1] / values.sum(dim=1), torch.nan)


def _pieces(updates: Updates) -> Iterator[Float64[Tensor, "runs batch _"]]:
    size = max(1, PIECE // max(1, updates.shape[1]))
    for piece in torch.split(updates, size, dim=2):
        yield piece.double()
