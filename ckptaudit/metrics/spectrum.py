"""Singular values of both sides and of the update."""

from __future__ import annotations

import torch
from torch import Tensor

from ckptaudit.linalg.bounds import mirsky
from ckptaudit.linalg.factors import direct_values
from ckptaudit.linalg.spectra import hill_alpha, relative_distance, relative_gap, stable_rank
from ckptaudit.metrics.batch import PairBatch
from ckptaudit.metrics.registry import metric

SHIFT_ERROR = 5e-3
"""Largest certified relative error of a spectral shift with which the cheap route is taken."""


def _mirsky(batch: PairBatch) -> Tensor:
    return mirsky(batch.update_norm, batch.base_norm, m=batch.m, n=batch.n)


@metric(
    unit="1",
    formula="norm(s(W1) - s(W0)) / norm(s(W0)), all singular values, descending; 1 where only the base is zero",
    source="arXiv:2606.07082, 3.2 and C.3, after arXiv:2511.08567, Gate II",
    needs="spectrum",
    upper_bound=_mirsky,
)
def normalized_spectral_shift(batch: PairBatch) -> Tensor:
    """How far the singular values moved, against their size."""
    before, after = batch.base_factors, batch.tuned_factors
    moved = torch.linalg.vector_norm(after.s - before.s, dim=1)
    doubtful = (before.s_error + after.s_error > SHIFT_ERROR * moved) & (batch.update_norm > 0)
    if bool(doubtful.any()):
        # Too small a shift for the cheap route's certified error: these few are decomposed directly.
        exact = [direct_values(side[doubtful]) for side in (batch.base, batch.tuned)]
        moved[doubtful] = torch.linalg.vector_norm(exact[1] - exact[0], dim=1)
    return relative_distance(moved, torch.linalg.vector_norm(before.s, dim=1))


@metric(unit="weight", formula="s_1(D)", source="arXiv:2511.08567, Gate II (Weyl)", needs="spectrum")
def update_spectral_norm(batch: PairBatch) -> Tensor:
    """Largest singular value of the update, in units of the weights."""
    return batch.update_s[:, 0]


@metric(
    unit="1",
    formula="norm_F(D)^2 / norm_2(D)^2; 0 for a zero update",
    source="arXiv:2606.07082, 4.1",
    needs="spectrum",
)
def update_stable_rank(batch: PairBatch) -> Tensor:
    """How many directions carry the update's energy, between 1 and r."""
    return stable_rank(batch.update_s)


@metric(
    unit="1",
    formula="k / sum_{i<=k} ln(s_i(D) / s_{k+1}(D)); 0 if s_{k+1} = 0, capped at 1e6",
    source="Hill 1975; arXiv:2606.07082, E",
    needs="spectrum",
)
def update_hill_alpha(batch: PairBatch) -> Tensor:
    """Tail index of the update's top k singular values; small is heavy-tailed."""
    return hill_alpha(batch.update_s, batch.k)


@metric(
    unit="1",
    formula="(s_k(W0) - s_{k+1}(W0)) / s_k(W0)",
    source="Wedin 1972; arXiv:2606.07082, C.3",
    needs="spectrum",
)
def principal_gap(batch: PairBatch) -> Tensor:
    """How well the base's top-k subspace is set apart; near 0 it is ill-defined, and so are angles to it."""
    return relative_gap(batch.base_factors.s, batch.k)
