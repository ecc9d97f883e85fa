"""Where the update lies against the base's principal directions, and how far it rotates them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ckptaudit.linalg.bounds import degrees, mean_degrees
from ckptaudit.metrics.batch import PairBatch
from ckptaudit.metrics.large import LargePair, bound_of
from ckptaudit.metrics.matrix import metric

ANGLES = "arXiv:2606.07082, 3.2 and C.3, after arXiv:2511.08567, Gate II"


def _largest(pair: LargePair) -> float | None:
    return None if pair.angle_sines is None else degrees(pair.angle_sines[0])


def _mean(pair: LargePair) -> float | None:
    return None if pair.angle_sines is None else mean_degrees(*pair.angle_sines)


def _rotated(pair: LargePair) -> float | None:
    return None if pair.rotation_sine is None else degrees(pair.rotation_sine)


def _rotated_rms(side: int) -> Callable[[LargePair], float | None]:
    return lambda pair: None if pair.rms_rotation_sines is None else degrees(pair.rms_rotation_sines[side])


@metric(
    unit="degrees",
    scale="angle",
    formula="max_i theta_i, cos theta_i = s_i(U0k' U1k), k = min(512, max(1, r // 8))",
    source=ANGLES,
    needs="spectrum",
    upper_bound=bound_of(_largest),
)
def principal_angle_left_max(batch: PairBatch) -> Tensor:
    """Largest angle between the top-k left singular subspaces; unstable where s_k and s_{k+1} nearly coincide."""
    return batch.read(batch.angles("left").largest)


@metric(
    unit="degrees",
    scale="angle",
    formula="mean_i theta_i, cos theta_i = s_i(U0k' U1k)",
    source=ANGLES,
    needs="spectrum",
    upper_bound=bound_of(_mean),
)
def principal_angle_left_mean(batch: PairBatch) -> Tensor:
    """Mean angle between the top-k left singular subspaces."""
    return batch.read(batch.angles("left").mean)


@metric(
    unit="degrees",
    scale="angle",
    formula="max_i theta_i, cos theta_i = s_i(V0k' V1k)",
    source=ANGLES,
    needs="spectrum",
    upper_bound=bound_of(_largest),
)
def principal_angle_right_max(batch: PairBatch) -> Tensor:
    """Largest angle between the top-k right singular subspaces; unstable where s_k and s_{k+1} nearly coincide."""
    return batch.read(batch.angles("right").largest)


@metric(
    unit="degrees",
    scale="angle",
    formula="mean_i theta_i, cos theta_i = s_i(V0k' V1k)",
    source=ANGLES,
    needs="spectrum",
    upper_bound=bound_of(_mean),
)
def principal_angle_right_mean(batch: PairBatch) -> Tensor:
    """Mean angle between the top-k right singular subspaces."""
    return batch.read(batch.angles("right").mean)


ROTATION = "largest angle from span(U0k) to span(U1l), l >= k the least with s_{l+1}(W1) <= 0.9 s_k(W0)"


@metric(
    unit="degrees",
    scale="angle",
    formula=ROTATION,
    source="Wedin 1972; docs/rotation.md (our reading)",
    needs="spectrum",
    upper_bound=bound_of(_rotated),
)
def principal_rotation_left(batch: PairBatch) -> Tensor:
    """How far any top-k left direction left the tuned matrix's top, with near-ties at k taken out."""
    return batch.read(batch.rotation("left").largest)


@metric(
    unit="degrees",
    scale="angle",
    formula=ROTATION.replace("U", "V"),
    source="Wedin 1972; docs/rotation.md (our reading)",
    needs="spectrum",
    upper_bound=bound_of(_rotated),
)
def principal_rotation_right(batch: PairBatch) -> Tensor:
    """How far any top-k right direction left the tuned matrix's top, with near-ties at k taken out."""
    return batch.read(batch.rotation("right").largest)


RMS_ROTATION = (
    "asin sqrt(mean_i sin^2 theta_i), theta_i the k angles from span(U0k) to span(U1l), "
    "l >= k the least with s_{l+1}(W1) <= 0.9 s_k(W0)"
)


@metric(
    unit="degrees",
    scale="angle",
    formula=RMS_ROTATION,
    source=f"{ANGLES}; the mean of squares and l are ours, docs/rotation.md",
    needs="spectrum",
    upper_bound=bound_of(_rotated_rms(0)),
)
def rms_rotation_left(batch: PairBatch) -> Tensor:
    """Root mean square rotation of the top-k left subspace, near-ties at k taken out; no growth with size."""
    return batch.read(batch.rotation("left").rms)


@metric(
    unit="degrees",
    scale="angle",
    formula=RMS_ROTATION.replace("U", "V"),
    source=f"{ANGLES}; the mean of squares and l are ours, docs/rotation.md",
    needs="spectrum",
    upper_bound=bound_of(_rotated_rms(1)),
)
def rms_rotation_right(batch: PairBatch) -> Tensor:
    """Root mean square rotation of the top-k right subspace, near-ties at k taken out; no growth with size."""
    return batch.read(batch.rotation("right").rms)


@metric(
    unit="1",
    scale="share",
    formula="1 - norm_F(U0k' D V0k)^2 / norm_F(D)^2; 1 - k^2 / (m n) for a zero update",
    source="follows from arXiv:2511.08567, Gate II",
    needs="spectrum",
)
def off_principal_energy(batch: PairBatch) -> Tensor:
    """Share of the update's energy outside the base's top-k subspaces; isotropic updates read 1 - k^2 / (m n)."""
    share = batch.read(batch.outside_share)
    return torch.where(batch.update_norm > 0, share, _isotropic(batch)).clamp(0.0, 1.0)


@metric(
    unit="1",
    scale="share",
    formula="off_principal_energy / (1 - k^2 / (m n)); 1 where the top-k subspaces are everything",
    source="follows from arXiv:2511.08567, Gate II",
    needs="spectrum",
)
def off_principal_energy_ratio(batch: PairBatch) -> Tensor:
    """Off-principal energy against what an isotropic update of the same shape has."""
    energy = off_principal_energy(batch)
    baseline = _isotropic(batch)
    return energy / baseline if baseline > 0 else torch.ones_like(energy)


@metric(
    unit="1",
    scale="share",
    formula="|P & M| / |M|, P = the floor(alpha m n) largest |rank-r0 part of W0|, r0 = min(64, max(1, r // 8))",
    source="arXiv:2606.07082, C.3; mask after arXiv:2506.00772",
    needs="spectrum",
)
def principal_mask_overlap(batch: PairBatch) -> Tensor:
    """Of the visibly changed entries, the share in the principal mask; alpha = 0.5 is the random baseline."""
    return batch.read(batch.principal_share)


def _isotropic(batch: PairBatch) -> float:
    return 1.0 - batch.k**2 / (batch.m * batch.n)
