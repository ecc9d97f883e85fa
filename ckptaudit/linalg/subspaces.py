"""Angles between subspaces, to full relative accuracy at both ends of the scale."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

SEPARATION = 0.1
"""How far below the base's s_k a tuned singular value must lie to count as outside the top (a share of s_k)."""


def principal_angles(x: Float[Tensor, "batch m k"], y: Float[Tensor, "batch m l"]) -> Float[Tensor, "batch k"]:
    """The k angles in degrees, ascending, from span(x) to span(y); columns orthonormal (y's may be zero).

    cos theta_i are the singular values of x'y, sin theta_i those of (I - y y')x. The cosine is used
    above 45 degrees and the sine below: near 0 the arc cosine keeps half the digits only
    (Bjorck and Golub 1973; Knyazev and Argentati 2002). With k = l this equals
    `numpy.degrees(scipy.linalg.subspace_angles(x, y))`, reversed. With l > k it says how far each
    direction of x lies from the larger space; where l < k, the k - l directions without partner read 90.
    """
    overlap = y.mT @ x
    cosines = torch.linalg.svdvals(overlap)
    missing = x.shape[2] - cosines.shape[1]
    cosines = torch.nn.functional.pad(cosines, (0, max(missing, 0))).clamp(max=1.0)
    sines = torch.linalg.svdvals(x - y @ overlap).flip(1)
    if (short := x.shape[2] - sines.shape[1]) > 0:
        # k > m cannot happen for orthonormal columns; this only guards the shapes.
        sines = torch.nn.functional.pad(sines, (short, 0))
    radians = torch.where(cosines.square() >= 0.5, torch.asin(sines.clamp(max=1.0)), torch.acos(cosines))
    return torch.rad2deg(radians)


def top_angles(
    base: Float[Tensor, "batch m _k"],
    tuned: Float[Tensor, "batch m _l"],
    *,
    base_rank: Int[Tensor, "batch"],
    tuned_size: Int[Tensor, "batch"],
    k: int,
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Largest, mean and root mean square angle from the base's leading min(k, rank) vectors to the tuned's leading
    `tuned_size`; the last is the angle whose squared sine is the mean of theirs.

    Singular vectors beyond the rank are arbitrary, hence left out on both sides; a direction that
    the tuned matrix lost reads 90 degrees. A zero base has no direction to rotate and reads 0.
    """
    kept = _leading(tuned, tuned_size)
    columns = base_rank.clamp(max=k)
    angles = base.new_zeros(base.shape[0], k)
    for width in sorted(set(columns.tolist()) - {0}):
        rows = columns == width
        angles[rows, :width] = principal_angles(base[rows, :, :width], kept[rows])
    columns = columns.clamp(min=1)
    return angles.amax(dim=1), angles.sum(dim=1) / columns, rms_angle(angles, columns)


def rms_angle(angles: Float[Tensor, "batch k"], count: Int[Tensor, "batch"] | int) -> Float[Tensor, "batch"]:
    """Root mean square of `count` angles in degrees, the rest being 0: asin sqrt(sum_i sin^2 theta_i / count).

    It changes by no more than the angle that changes most.
    """
    squares = torch.deg2rad(angles).sin().square().sum(dim=1) / count
    return torch.rad2deg(squares.sqrt().clamp(max=1.0).asin())


def separated_size(
    base_s: Float[Tensor, "batch r"], tuned_s: Float[Tensor, "batch r"], *, k: int
) -> Int[Tensor, "batch"]:
    """How many leading tuned directions to keep so that none of the base's top k can be lost to a tie.

    The smallest l >= k with tuned s_{l+1} <= (1 - SEPARATION) base s_k. The base's top-k space and
    the tuned directions beyond l are then a fixed distance apart in singular value, and Wedin's
    theorem bounds the angle by norm_2(D) / (SEPARATION s_k) however close s_k and s_{k+1} are.
    """
    threshold = (1.0 - SEPARATION) * base_s[:, k - 1 : k]
    return (tuned_s > threshold).sum(dim=1).clamp(min=k)


def captured_energy(
    update: Float[Tensor, "batch m n"], left: Float[Tensor, "batch m k"], right: Float[Tensor, "batch n k"]
) -> Float[Tensor, "batch"]:
    """norm_F(left' update right)^2: the part of the update within both subspaces."""
    return (left.mT @ update @ right).square().sum(dim=(1, 2))


def _leading(vectors: Float[Tensor, "batch m r"], size: Int[Tensor, "batch"]) -> Float[Tensor, "batch m l"]:
    """The leading columns, as many as the largest size asks for; columns past each item's own size are zero."""
    widest = max(1, int(size.max()))
    columns = torch.arange(widest, device=vectors.device)
    return vectors[:, :, :widest] * (columns < size[:, None]).to(vectors.dtype)[:, None, :]
