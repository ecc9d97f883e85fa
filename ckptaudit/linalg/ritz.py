"""Leading singular subspaces of the tuned matrix by block Rayleigh-Ritz, started at the base's.

Products with a few hundred columns; nothing cubic in a side of the matrix. docs/fast-paths.md derives it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64, Shaped
from torch import Tensor

from ckptaudit.linalg.changes import SubspaceAngles, angles_of
from ckptaudit.linalg.gram import gram
from ckptaudit.linalg.leading import Leading
from ckptaudit.linalg.products import multiply
from ckptaudit.linalg.symmetric import eigenvalues, eigenvectors

RESTARTS = 6
STEPS = 3
"""Steps of conjugate gradients between two Rayleigh-Ritz steps; each divides the residual by two or three."""

ACCEPTED, ACCEPTED_SHARE = 0.005, 0.005
"""Error of the rotation that is accepted: 0.005 degrees or half a per cent, whichever is more."""

PROBES, ROUNDS = 8, 5
UNSEEN = 1.03
"""Random directions and steps of the power iteration that looks for tuned directions across those that were found,
and the allowance for what it comes short of."""


@dataclass(frozen=True)
class RitzRotation:
    """Angles from the base's top k directions to the tuned ones above the threshold, and their error in degrees."""

    angles: SubspaceAngles
    error: float


@dataclass(frozen=True)
class _Ritz:
    """Ritz triplets of the tuned matrix: W V = U diag(s) up to rounding, and `residual` = W'U - V diag(s)."""

    s: Float64[Tensor, "c"]
    left: Float32[Tensor, "m l"]
    right: Float32[Tensor, "n c"]
    size: int
    """How many lie above the threshold, the first k at least."""
    residual: Float32[Tensor, "n l"]

    @property
    def corrected(self) -> int:
        """How many are corrected between two steps: those above the threshold, and half of the band below."""
        return self.left.shape[1]

    def tilt(self, k: int, threshold: float) -> float:
        """Bound on the sine between the first k Ritz directions and the tuned ones above the threshold (Wedin)."""
        gap = float(self.s[k - 1]) - threshold
        norm = math.sqrt(max(float(eigenvalues(gram(self.residual[:, :k]))[0]), 0.0))
        return norm / gap if gap > 0 else 1.0

    def mixing(
        self, long: Float32[Tensor, "m k"], short: Float32[Tensor, "n k"], *, across: float, threshold: float
    ) -> float:
        """What the base's top k have along each further direction, times the sine by which that counts wrongly.

        `across` is about the largest singular value across all directions. A direction above the threshold is off
        by its own residual. One below may turn towards what lies across, which is below as well: it counts by what
        comes to it from above, by way of both residuals. One on either side of the threshold counts entirely.
        """
        k, above = long.shape[1], self.size - long.shape[1]
        s, residual = self.s[k : self.corrected], torch.linalg.vector_norm(self.residual[:, k:].double(), dim=0)
        off = (residual / (s - across).clamp_min(1e-300)).clamp(max=1.0)
        undecided = (s - threshold).abs() <= residual * off
        if 0 < above < len(s):
            reaching = residual[:above, None] / (s[:above, None] - s[above:]).clamp_min(1e-300)
            off[above:] *= reaching.amax(dim=0).clamp(max=1.0)
        off[undecided] = 1.0
        parts = (self.left[:, k:].mT @ long, self.right[:, k : self.corrected].mT @ short)
        return max(float(torch.linalg.vector_norm(part.double() * off[:, None])) for part in parts)


def ritz_rotation(base: Leading, tuned: Shaped[Tensor, "m n"], *, k: int, share: float) -> RitzRotation | None:
    """The rotation of either side; None where directions are missing or the error does not fall.

    `base` has to hold all directions down to below the threshold, `share` times its s_k. The upper side of the
    error is Wedin's theorem for the residual that is left; that no tuned direction was missed is estimated.
    """
    threshold = share * float(base.s[k - 1])
    if base.following > threshold:
        return None
    wide = tuned.shape[0] < tuned.shape[1]
    tall = tuned.float().mT if wide else tuned.float()
    long, short = (base.right, base.left) if wide else (base.left, base.right)
    start: Float32[Tensor, "n c"] = short
    for _ in range(RESTARTS):
        found = _rayleigh_ritz(tall, start, k, threshold)
        angles = _angles(found, long[:, :k], short[:, :k], wide)
        largest = max(float(angles.left[-1]), float(angles.right[-1]))
        mixing = found.mixing(long[:, :k], short[:, :k], across=base.following, threshold=threshold)
        error = math.degrees(found.tilt(k, threshold) + mixing)
        if error <= max(ACCEPTED, ACCEPTED_SHARE * largest):
            complete = UNSEEN * _norm_across(tall, found.right) <= threshold
            return RitzRotation(angles, error) if complete else None
        correction = _correction(tall, found)
        if correction is None:
            return None
        start = torch.cat(
            [found.right[:, : found.corrected] + correction, found.right[:, found.corrected :]], dim=1
        )
    return None


def _rayleigh_ritz(tall: Float32[Tensor, "m n"], start: Float32[Tensor, "n c"], k: int, threshold: float) -> _Ritz:
    # Orthonormal by a Cholesky factor, which the small condition number of the directions allows.
    factor = torch.linalg.cholesky(gram(start), upper=True)
    basis = torch.linalg.solve_triangular(factor, start.double(), upper=True, left=False).float()
    images = multiply(tall, basis)
    squares, mixed = eigenvectors(gram(images))
    s = squares.clamp(min=1e-300).sqrt()
    size = max(k, int((s > threshold).sum()))
    corrected = max(size, int((s > 0.5 * (threshold + float(s[-1]))).sum()))
    left = multiply(images, (mixed[:, :corrected] / s[:corrected]).float())
    right = multiply(basis, mixed.float().contiguous())
    residual = multiply(tall.mT, left) - right[:, :corrected] * s[:corrected].float()
    return _Ritz(s, left, right, size, residual)


def _correction(tall: Float32[Tensor, "m n"], found: _Ritz) -> Float32[Tensor, "n l"] | None:
    """Y with (s_i^2 - W'W) y_i = s_i r_i across the Ritz directions, by conjugate gradients, a column each.

    None where the operator is not positive.
    """
    s = found.s[: found.corrected].float()
    squares = s.square()
    across = _across(found.right, found.residual * s)
    y, direction, length = torch.zeros_like(across), across.clone(), _squares(across)
    for _ in range(STEPS):
        image = direction * squares - _across(found.right, _normal(tall, direction))
        curvature = (direction * image).sum(dim=0, dtype=torch.float64)
        if not float(curvature.amin()) > 0:
            return None
        step = (length / curvature).float()
        y += step * direction
        across = across - step * image
        before, length = length, _squares(across)
        direction = across + (length / before).float() * direction
    return y


def _normal(tall: Float32[Tensor, "m n"], x: Float32[Tensor, "n k"]) -> Float32[Tensor, "n k"]:
    """W'W X."""
    return multiply(tall.mT, multiply(tall, x))


def _across(directions: Float32[Tensor, "n c"], x: Float32[Tensor, "n k"]) -> Float32[Tensor, "n k"]:
    return x - multiply(directions, multiply(directions.mT, x))


def _norm_across(tall: Float32[Tensor, "m n"], directions: Float32[Tensor, "n c"]) -> float:
    """norm_2(W (I - V V')) by block power iteration, from below; 0 where V spans everything."""
    n, c = directions.shape
    if c == n:
        return 0.0
    width = min(PROBES, n - c)
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(0)).to(directions.device)
    growth = torch.zeros(width)
    for _ in range(ROUNDS):
        x = torch.linalg.qr(_across(directions, x)).Q
        x = _across(directions, _normal(tall, x))
        growth = torch.linalg.svdvals(x)
    return math.sqrt(float(growth[0]))


def _squares(x: Float32[Tensor, "n k"]) -> Float64[Tensor, "k"]:
    return x.square().sum(dim=0, dtype=torch.float64).clamp_min(1e-300)


def _angles(
    found: _Ritz, long: Float32[Tensor, "m k"], short: Float32[Tensor, "n k"], wide: bool
) -> SubspaceAngles:
    sines = [_sines(found.left[:, : found.size], long), _sines(found.right[:, : found.size], short)]
    left, right = (angles_of(x) for x in (reversed(sines) if wide else sines))
    return SubspaceAngles(left=left, right=right)


def _sines(tuned: Float32[Tensor, "m l"], base: Float[Tensor, "m k"]) -> Float64[Tensor, "k k"]:
    return gram(_across(tuned, base))
