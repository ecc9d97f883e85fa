"""Orthogonal updates and orthogonal layers: how far a matrix is from keeping lengths and angles."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ckptaudit.linalg.spectra import relative_distance
from ckptaudit.metrics.batch import PairBatch
from ckptaudit.metrics.matrix import metric

UPDATE = "arXiv:2509.24320 (AuON), for the property"
LAYER = "arXiv:2509.16664 (lambda-orthogonality)"


@metric(
    unit="1",
    scale="size",
    formula="s_1(D) / s_1(W0); 0 for 0 / 0, 1 where only the base is zero",
    source=f"{UPDATE}; the ratio to the base is our reading",
    needs="spectrum",
    standing=False,
)
def relative_update_spectral_norm(batch: PairBatch) -> Tensor:
    """Radius of the update in the spectral norm, against the base's; what a trust region on it bounds.

    By Weyl's inequality no singular value moved by more than this share of the largest.
    """
    return relative_distance(_spectral_norm(batch.update), _spectral_norm(batch.base))


@metric(
    unit="1",
    scale="size",
    formula="norm_F(Q'Q - I) / sqrt(r), Q = D sqrt(r) / norm_F(D), on D's shorter side; 0 for a zero update",
    source=f"{UPDATE}; the scaling is our reading",
    needs="matrix",
    standing=False,
)
def update_semi_orthogonality_defect(batch: PairBatch) -> Tensor:
    """How unevenly the update weighs its directions: 0 if all singular values are equal, sqrt(r - 1) at rank one.

    An update of independent Gaussian entries reads sqrt(min(m, n) / max(m, n)) on average. The scaling makes
    the mean square of Q's singular values 1, so the size of the update does not enter.
    """
    length = torch.linalg.vector_norm(batch.update, dim=(1, 2))
    moved = length > 0
    # Dividing before squaring keeps updates of 1e-200 from vanishing in the product.
    unit = batch.update / torch.where(moved, length, torch.ones_like(length))[:, None, None]
    size = min(batch.m, batch.n)
    defect = torch.linalg.matrix_norm(size * _short_gram(unit) - _identity(unit), dim=(1, 2)) / size**0.5
    return torch.where(moved, defect, torch.zeros_like(defect))


@metric(
    unit="1",
    scale="size",
    formula="norm_F(Q'Q - I), Q = W1; norm_F(QQ' - I) where m < n",
    source=LAYER,
    needs="matrix",
    standing=False,
)
def orthogonality_defect(batch: PairBatch) -> Tensor:
    """Distance of the tuned matrix from having orthonormal columns (rows, where it is wide).

    A layer c Q with orthonormal Q reads |c^2 - 1| sqrt(min(m, n)).
    """
    defect: Tensor = torch.linalg.matrix_norm(
        _short_gram(batch.tuned) * batch.unit[:, None, None] ** 2 - _identity(batch.tuned), dim=(1, 2)
    )
    return defect


@metric(
    unit="roundings",
    scale="size",
    formula="norm_F(Q'Q - I) / (2 u sqrt(r) + u^2 r + 2^-23 r sqrt(r)), Q = W1, u the unit roundoff of its type",
    source=f"{LAYER}; the unit follows from rounding each entry once, and products of r terms in float32",
    needs="matrix",
    standing=False,
)
def orthogonality_defect_in_roundings(batch: PairBatch) -> Tensor:
    """The orthogonality defect in units of what storing an orthogonal matrix and computing it in float32 can cost.

    An orthonormal Q rounded entry by entry has norm_F(E) <= u sqrt(r), so it reads at most 1.
    """
    size = min(batch.m, batch.n)
    roundoff = torch.finfo(batch.stored_tuned.dtype).eps / 2
    allowed = 2 * roundoff * size**0.5 + roundoff**2 * size + 2.0**-23 * size**1.5
    ratio: Tensor = orthogonality_defect(batch) / allowed
    return ratio


@metric(
    unit="1",
    scale="size",
    formula="max |<Qx, Qy> - <x, y>| over unit x, y = norm_2(Q'Q - I), Q = W1",
    source="definition; what an orthogonal layer keeps, arXiv:2509.16664",
    needs="spectrum",
    standing=False,
)
def inner_product_distortion(batch: PairBatch) -> Tensor:
    """Largest change of an inner product of two unit vectors under the tuned layer.

    Equals max_i |s_i^2 - 1|, and at least 1 for a layer with fewer outputs than inputs: it loses directions.
    """
    squares = torch.linalg.eigvalsh(_short_gram(batch.tuned)) * batch.unit[:, None] ** 2
    worst: Tensor = (squares - 1.0).abs().amax(dim=1)
    return worst.clamp(min=1.0) if batch.m < batch.n else worst


def _spectral_norm(stack: Float[Tensor, "batch m n"]) -> Float[Tensor, "batch"]:
    norm: Tensor = torch.linalg.svdvals(stack)[:, 0]
    return norm


def _short_gram(stack: Float[Tensor, "batch m n"]) -> Float[Tensor, "batch r r"]:
    """The smaller of W'W and WW'."""
    return stack.mT @ stack if stack.shape[1] >= stack.shape[2] else stack @ stack.mT


def _identity(stack: Float[Tensor, "batch m n"]) -> Float[Tensor, "r r"]:
    return torch.eye(min(stack.shape[1:]), dtype=stack.dtype, device=stack.device)
