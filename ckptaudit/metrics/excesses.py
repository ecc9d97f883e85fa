"""How an update differs from one that is blind to the weights, after the same rounding: what a claim of kind says.

bf16 alone makes small weights change visibly more often than large ones, and lends any update a higher rank. Each
metric here is the difference from what a blind update with as many visible changes reads (docs/null-models.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ckptaudit.linalg.bounds import rounding_margin
from ckptaudit.linalg.census import binades
from ckptaudit.linalg.spectra import relative_distance
from ckptaudit.metrics.batch import PairBatch
from ckptaudit.metrics.matrix import metric
from ckptaudit.metrics.rotation import off_principal_energy
from ckptaudit.metrics.spectrum import stable_rank_ceiling, update_stable_rank
from ckptaudit.metrics.weight_batch import ALPHA

NULL = "our null model, docs/null-models.md"

GROUPS = 8
"""Interleaved groups of rows, each left out once, from which the error of a sampled expectation is told."""


def low_magnitude_expected(batch: PairBatch) -> Tensor:
    """What a blind update reads for low_magnitude_overlap."""
    shares = (blind.share_among(blind.census.smallest(ALPHA)) for blind in batch.blind)
    return _per_matrix(batch, shares)


def principal_expected(batch: PairBatch) -> Tensor:
    """What a blind update reads for principal_mask_overlap."""
    pairs = zip(batch.blind, batch.principal_binades, strict=True)
    return _per_matrix(batch, (blind.share_among(principal) for blind, principal in pairs))


def _low_magnitude_error(batch: PairBatch) -> Tensor:
    return _share_error(batch, low_magnitude_expected(batch))


def _principal_error(batch: PairBatch) -> Tensor:
    return _share_error(batch, principal_expected(batch))


@metric(
    unit="1",
    scale="difference",
    formula="low_magnitude_overlap - sum_{ij in L} p_ij / sum_ij p_ij, p_ij the chance that bf16 shows a step of "
    "N(0, t^2) on w_ij, t such that mean p_ij = |M| / (m n), lognormal where norm_F(D) asks for heavier tails; "
    "0 where M is empty",
    source=f"arXiv:2606.07082, 3.2; {NULL}",
    needs="matrix",
    standard_error=_low_magnitude_error,
)
def low_magnitude_excess(batch: PairBatch) -> Tensor:
    """Overlap with the base's smallest half beyond what rounding gives an update blind to magnitude."""
    return _beyond(batch, batch.low_magnitude_share, low_magnitude_expected(batch))


@metric(
    unit="1",
    scale="difference",
    formula="principal_mask_overlap - sum_{ij in P} p_ij / sum_ij p_ij, p_ij as for low_magnitude_excess",
    source=f"arXiv:2606.07082, C.3; mask after arXiv:2506.00772; {NULL}",
    needs="spectrum",
    standard_error=_principal_error,
)
def principal_mask_excess(batch: PairBatch) -> Tensor:
    """Overlap with the principal mask beyond what rounding gives an update blind to it."""
    return _beyond(batch, batch.read(batch.principal_share), principal_expected(batch))


def _off_principal_error(batch: PairBatch) -> Tensor:
    return batch.shared("inside", lambda: _inside_expected(batch))[1]


@metric(
    unit="1",
    scale="difference",
    formula="off_principal_energy - (1 - sum_ij v_ij a_i b_j / sum_ij v_ij), v_ij the mean square of w_ij's "
    "stored change by a blind step, a and b the squared row norms of U0k and V0k; 0 for a zero update",
    source=f"follows from arXiv:2511.08567, Gate II; {NULL}",
    needs="spectrum",
    standard_error=_off_principal_error,
)
def off_principal_excess(batch: PairBatch) -> Tensor:
    """Energy outside the base's top-k subspaces beyond what a blind, rounded update leaves there."""
    expected = 1.0 - batch.shared("inside", lambda: _inside_expected(batch))[0]
    return torch.where(batch.update_norm > 0, off_principal_energy(batch) - expected, 0.0)


def _unrounded(batch: PairBatch) -> Tensor:
    return batch.update_norm.new_tensor([blind.coherent_share for blind in batch.blind])


def _unrounded_ceiling(batch: PairBatch) -> Tensor | None:
    ceiling = stable_rank_ceiling(batch)
    return None if ceiling is None else ceiling * _unrounded(batch) * (1 + 1e-9)


@metric(
    unit="1",
    scale="size",
    formula="E[D E]^2 / (E[E^2] E[D^2]) times norm_F(D)^2 / norm_2(D)^2, E a step as for "
    "low_magnitude_excess and D what rounding leaves of it; 0 for a zero update",
    source=f"arXiv:2606.07082, 4.1; Bussgang 1952; {NULL}",
    needs="spectrum",
    upper_bound=_unrounded_ceiling,
    bound_needs="matrix",
)
def unrounded_stable_rank(batch: PairBatch) -> Tensor:
    """Stable rank of the update as it was before rounding scattered it over many directions."""
    return update_stable_rank(batch) * _unrounded(batch)


def _ratio_ceiling(batch: PairBatch) -> Tensor:
    margin = 1.0 + rounding_margin(batch.m, batch.n) + 1e-6
    return torch.full_like(batch.update_norm, math.sqrt(max(batch.m, batch.n)) * margin)


@metric(
    unit="1",
    scale="size",
    formula="normalized_spectral_shift sqrt(max(m, n)) / relative_update_norm; 1 for a zero update",
    source="arXiv:2606.07082, 3.2, for the shift; first-order perturbation: docs/null-models.md",
    needs="spectrum",
    upper_bound=_ratio_ceiling,
    bound_needs="matrix",
)
def spectral_shift_ratio(batch: PairBatch) -> Tensor:
    """Spectral shift against that of a small blind update: 1 for one, sqrt(max(m, n)) for a uniform scaling."""
    share = relative_distance(batch.update_norm, batch.base_norm)
    shift = relative_distance(batch.read(batch.shift), batch.base_norm)
    ratio = shift * math.sqrt(max(batch.m, batch.n)) / torch.where(share > 0, share, 1.0)
    return torch.where(share > 0, ratio, 1.0)


def _per_matrix(batch: PairBatch, shares: Iterable[float | None]) -> Tensor:
    values = [ALPHA if share is None else share for share in shares]
    return batch.update_norm.new_tensor(values)


def _beyond(batch: PairBatch, seen: Tensor, expected: Tensor) -> Tensor:
    return torch.where(batch.changed_count > 0, seen - expected, torch.zeros_like(expected))


def _share_error(batch: PairBatch, expected: Tensor) -> Tensor:
    """Of a share among the changed entries, and of an expectation from a sample of the weights."""
    scatter = expected * (1 - expected) / batch.changed_count.clamp(min=1)
    sampled = [0.25 / known.size if known.sampled else 0.0 for known in batch.censuses]
    return torch.where(batch.changed_count > 0, (scatter + scatter.new_tensor(sampled)).sqrt(), 0.0)


def _inside_expected(batch: PairBatch) -> tuple[Tensor, Tensor]:
    """The share of a blind update's energy within both subspaces, and its standard error."""
    rows, columns = batch.leverages
    found = [_inside_of(batch, index, rows[index], columns[index]) for index in range(batch.stored_base.shape[0])]
    values = torch.stack(found)
    return values[:, 0], values[:, 1]


def _inside_of(batch: PairBatch, index: int, rows: Tensor, columns: Tensor) -> Tensor:
    even = batch.k**2 / (batch.m * batch.n)
    profile = batch.blind[index].energies.to(rows.device)
    v = profile[binades(batch.in_range[0][index][batch.grid])]
    a, b = _weights(rows), _weights(columns)
    inside, total = (v @ b) * a, v.sum(dim=1)
    kept = _left_out(len(a)).to(inside)
    drawn = batch.grid[0].step > 1 or batch.grid[1].step > 1
    sampled = (GROUPS - 1) * ((kept @ inside) / (kept @ total).clamp_min(1e-300)).var(correction=0) * drawn
    share = inside.sum() / total.sum()
    # k^2 sums of random signs: their mean square scatters by sqrt(2) / k of itself.
    error = (sampled + 2 * share.square() / batch.k**2).sqrt()
    blank = share.new_tensor([1.0, math.sqrt(2) / batch.k])
    return even * torch.where(total.sum() > 0, torch.stack([share, error]), blank)


def _weights(leverages: Tensor) -> Tensor:
    """Relative to their mean, which over all rows is k / m exactly."""
    mean = leverages.mean()
    return torch.where(mean > 0, leverages / mean, 1.0)


def _left_out(count: int) -> Tensor:
    """A row of marks for each group, of what is left without it."""
    if count < 2:
        return torch.ones(1, count, dtype=torch.bool)
    groups = torch.arange(min(GROUPS, count))
    return torch.arange(count) % GROUPS != groups[:, None]
