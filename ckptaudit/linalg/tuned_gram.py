"""Singular values and subspaces of W0 + D from its Gram matrix, W0'W0 and what D adds to it, in float64.

Both sides are decomposed by the same routine from Gram matrices that differ by C alone, so that what rounding did
to W0'W0 is the same on both; C is computed from D, its error relative to the update. docs/fast-paths.md derives it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from ckptaudit.linalg.changes import ANGLE_ERROR, SubspaceAngles, angles_of, expected_shift_error, spectral_shift
from ckptaudit.linalg.parts import cached_property
from ckptaudit.linalg.products import EPS, UNIT, multiply
from ckptaudit.linalg.symmetric import Eigen


class TunedGram:
    """The tuned matrix, tall, by its Gram matrix. What cannot be found reliably is None."""

    def __init__(
        self,
        s: Float64[Tensor, "r"],
        v: Float64[Tensor, "r c"],
        gram: Float64[Tensor, "r r"],
        *,
        cross: Float32[Tensor, "r r"],
        own: Float32[Tensor, "r r"],
    ) -> None:
        self.s, self._v, self._cross, self._own = s, v, cross, own
        # Into a row-major place: the sum would be stored as `cross` is, which may not be how `gram` is.
        self._change = torch.add(cross, cross.mT, out=torch.empty_like(own))
        self._gram = gram + self._change

    def act(self, rows: Float32[Tensor, "p r"]) -> Float32[Tensor, "p r"]:
        """Rows times C."""
        return multiply(rows, self._change)

    @cached_property
    def _tuned(self) -> Eigen:
        return Eigen(self._gram)

    @cached_property
    def tuned_squares(self) -> Float64[Tensor, "r"]:
        """Squares of the tuned matrix's singular values, descending."""
        return self._tuned.values.clamp(min=0)

    def shift(self) -> float:
        """norm(s(W0 + D) - s(W0))."""
        return spectral_shift(self.s, self.tuned_squares)

    def shift_error(self, error: float) -> float:
        """What an error of C, given by its norm_F, and the eigensolver's on either side may do to the shift.

        The eigensolver's backward error is taken as r eps times the largest eigenvalue, in norm_F.
        """
        return expected_shift_error(self.s, error + 2 * len(self.s) * EPS * float(self.s[0].square()))

    @cached_property
    def _pull(self) -> Float32[Tensor, "r c"]:
        """C V, for the leading directions of the base."""
        return multiply(self._change, self._v.float())

    @cached_property
    def _images(self) -> tuple[Float32[Tensor, "r c"], Float32[Tensor, "r c"]]:
        """D'D V and W0'D V, for the leading directions of the base."""
        v = self._v.float()
        own = multiply(self._own, v)
        return own, multiply(self._cross, v) - 0.5 * own

    def coupling(self, size: int) -> float:
        """norm_F of what C rotates the top `size` directions by: C V less its part along V."""
        v, image = self._v[:, :size].float(), self._pull[:, :size]
        return float(torch.linalg.matrix_norm(image - multiply(v, multiply(v.mT, image))))

    def angles(self, k: int, size: int) -> tuple[SubspaceAngles, SubspaceAngles] | None:
        """Angles from the base's top k directions to the tuned top k, and to the tuned top `size`, size >= k."""
        v, w = self._v[:, :k], self._tuned.vectors(size)
        s0, s1 = self.s[:k], self.tuned_squares[:size].sqrt()
        own, cross = (image[:, :k].double() for image in self._images)
        inside = multiply(v.mT, own)
        # On the left, what stays across is a difference of squares as large as the images of D.
        lost = 4 * UNIT * float(torch.linalg.eigvalsh(inside)[-1])
        if not math.sqrt(lost) <= ANGLE_ERROR * min(float(s0[-1]), float(s1[-1])):
            return None
        crossed = cross + own
        seen = _Seen(s0, crossed=crossed, images=inside, along=multiply(w.mT, crossed) / s1[:, None])
        across, pulled = v, v * s0.square() + self._pull[:, :k].double()
        found: list[SubspaceAngles] = []
        for a, b in ((0, k), (k, size)):
            # Directions are eigenvectors on their own side: no Gram matrix need be applied to them.
            part = multiply(w[:, a:b].mT, v)
            across = across - multiply(w[:, a:b], part)
            pulled = pulled - multiply(w[:, a:b], s1[a:b, None].square() * part)
            found.append(seen.angles(across, pulled, b) if b > a else found[0])
        return found[0], found[1]

    def captured(self, size: int) -> float:
        """norm_F(U'D V)^2 over the top `size` directions of both sides."""
        block = multiply(self._v[:, :size].mT, self._images[1][:, :size].double())
        return float((block / self.s[:size, None]).square().sum())


@dataclass(frozen=True)
class _Seen:
    """Base directions V0 and what the update makes of them: W1'D V0, (D V0)'(D V0) and U1'D V0."""

    s: Float64[Tensor, "k"]
    crossed: Float64[Tensor, "r k"]
    images: Float64[Tensor, "k k"]
    along: Float64[Tensor, "l k"]

    def angles(self, across: Float64[Tensor, "r k"], pulled: Float64[Tensor, "r k"], size: int) -> SubspaceAngles:
        """Angles to the first `size` tuned directions V1, from what of the base's lies across them.

        `across` is Q = V0 - V1 V1'V0, `pulled` is W1'W1 Q. The left directions W0 V0 = W1 V0 - D V0 leave
        W1 Q - (I - U1 U1')D V0 across U1 = W1 V1 / s.
        """
        along = self.along[:size]
        # Angles are taken of its symmetric part, so that twice a mixed term stands for it and its transpose.
        left = multiply(across.mT, pulled - 2 * self.crossed) + self.images - multiply(along.mT, along)
        return SubspaceAngles(
            left=angles_of(left / self.s / self.s[:, None]), right=angles_of(multiply(across.mT, across))
        )
