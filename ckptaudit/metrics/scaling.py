"""What the update does within the base's own directions: does it scale them or turn them, and which?"""

from __future__ import annotations

import torch
from torch import Tensor

from ckptaudit.linalg.subspaces import principal_angles, rms_angle
from ckptaudit.metrics.batch import PairBatch
from ckptaudit.metrics.matrix import metric

DIRECTIONS = "arXiv:2508.16546, abstract: directions of singular vectors shift, singular values hardly"


@metric(
    unit="1",
    scale="share",
    formula="sum_i c_ii^2 / sum_ij c_ij^2, C = U0k' D V0k; 1 / k for C = 0",
    source=f"{DIRECTIONS}; first-order perturbation theory, our reading",
    needs="spectrum",
    standing=False,
)
def principal_scaling_share(batch: PairBatch) -> Tensor:
    """Of the update within the top-k subspaces, the share that scales singular values; the rest turns directions.

    To first order the diagonal of `C` moves singular values and what stands beside it turns singular vectors into
    each other. An update that is blind to the base reads 1 / k. Within a cluster of nearly equal singular values
    the vectors are arbitrary, and so is the split.
    """
    factors, k = batch.base_factors, batch.k
    block = factors.left(k).mT @ batch.update @ factors.right(k)
    total = block.square().sum(dim=(1, 2))
    scaled = block.diagonal(dim1=1, dim2=2).square().sum(dim=1)
    return torch.where(total > 0, scaled / torch.where(total > 0, total, 1.0), 1.0 / k)


@metric(
    unit="degrees",
    scale="angle",
    formula="asin sqrt(mean sin^2 theta), theta the k angles between the last k left singular vectors of both "
    "sides and the k between the last k right ones",
    source=f"{DIRECTIONS}, most of all at the largest and smallest singular values; the mean of squares is ours",
    needs="spectrum",
    standing=False,
)
def trailing_rotation(batch: PairBatch) -> Tensor:
    """Root mean square rotation of the k trailing singular directions of both sides; 0 for a zero update.

    Small singular values lie close together, so that the trailing subspace of a dense spectrum turns far for
    updates that hardly turn the leading one.
    """
    before, after = (_trailing(side, batch.k) for side in (batch.base, batch.tuned))
    angles = torch.cat([principal_angles(a, b) for a, b in zip(before, after, strict=True)], dim=1)
    return torch.where(batch.update_norm > 0, rms_angle(angles, angles.shape[1]), 0.0)


def _trailing(stack: Tensor, k: int) -> tuple[Tensor, Tensor]:
    u, _, vh = torch.linalg.svd(stack, full_matrices=False)
    return u[:, :, -k:], vh[:, -k:].mT
