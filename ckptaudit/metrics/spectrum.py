"""Singular values of both sides and of the update."""

from __future__ import annotations

from torch import Tensor

from ckptaudit.linalg.bounds import mirsky, rounding_margin
from ckptaudit.linalg.rotation_bounds import hill_floor
from ckptaudit.linalg.spectra import relative_distance
from ckptaudit.metrics.batch import PairBatch
from ckptaudit.metrics.large import LargePair, bound_of
from ckptaudit.metrics.matrix import metric


def _mirsky(batch: PairBatch) -> Tensor:
    return mirsky(batch.update_norm, batch.base_norm, m=batch.m, n=batch.n)


def _turned_back(pair: LargePair) -> float | None:
    norm = float(pair.base_norm)
    if pair.moved_at_most is None or not norm > 0:
        return None
    return pair.moved_at_most / norm * (1.0 + rounding_margin(pair.m, pair.n))


def _spectral_norm(pair: LargePair) -> float:
    return pair.norm_floor


def _stable_rank(pair: LargePair) -> float:
    most = float(min(pair.m, pair.n)) if pair.size > 0 else 0.0
    return min(most, (pair.size / pair.norm_floor) ** 2) if pair.norm_floor > 0 else most


stable_rank_ceiling = bound_of(_stable_rank)


def _hill(pair: LargePair) -> float | None:
    if pair.images is None or pair.top is None:
        return None
    return hill_floor(pair.images, pair.top, k=pair.k) if pair.k < min(pair.m, pair.n) else 0.0


@metric(
    unit="1",
    scale="size",
    formula="norm(s(W1) - s(W0)) / norm(s(W0)), all singular values, descending; 1 where only the base is zero",
    source="arXiv:2606.07082, 3.2 and C.3, after arXiv:2511.08567, Gate II",
    needs="spectrum",
    upper_bound=_mirsky,
    sharper_bound=bound_of(_turned_back),
    bound_needs="matrix",
)
def normalized_spectral_shift(batch: PairBatch) -> Tensor:
    """How far the singular values moved, against their size."""
    return relative_distance(batch.read(batch.shift), batch.base_norm)


@metric(
    unit="weight",
    scale="size",
    formula="s_1(D)",
    source="arXiv:2511.08567, Gate II (Weyl)",
    needs="spectrum",
    lower_bound=bound_of(_spectral_norm),
    bound_needs="matrix",
)
def update_spectral_norm(batch: PairBatch) -> Tensor:
    """Largest singular value of the update, in units of the weights."""
    return batch.read(batch.spectral_norm) * batch.unit


@metric(
    unit="1",
    scale="size",
    formula="norm_F(D)^2 / norm_2(D)^2; 0 for a zero update",
    source="arXiv:2606.07082, 4.1",
    needs="spectrum",
    upper_bound=stable_rank_ceiling,
    bound_needs="matrix",
)
def update_stable_rank(batch: PairBatch) -> Tensor:
    """How many directions carry the update's energy, between 1 and r."""
    return batch.read(batch.stable_rank)


@metric(
    unit="1",
    scale="size",
    formula="k / sum_{i<=k} ln(s_i(D) / s_{k+1}(D)); 0 if s_{k+1} = 0, capped at 1e6",
    source="Hill 1975; arXiv:2606.07082, E",
    needs="spectrum",
    lower_bound=bound_of(_hill),
)
def update_hill_alpha(batch: PairBatch) -> Tensor:
    """Tail index of the update's top k singular values; small is heavy-tailed."""
    return batch.read(batch.hill)


@metric(
    unit="1",
    scale="share",
    formula="(s_k(W0) - s_{k+1}(W0)) / s_k(W0)",
    source="Wedin 1972; arXiv:2606.07082, C.3",
    needs="spectrum",
)
def principal_gap(batch: PairBatch) -> Tensor:
    """How well the base's top-k subspace is set apart; near 0 it is ill-defined, and so are angles to it."""
    return batch.read(batch.gap)
