"""Singular values and subspaces of W0 + D from its Gram matrix, W0'W0 and what D adds to it, in float64.

Both sides are decomposed by the same routine from Gram matrices that differ by C alone, so that what rounding did
to W0'W0 is the same on both; C is computed from D, its error relative to the update. docs/fast-paths.md derives it.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from ckptaudit.linalg.changes import ANGLE_ERROR, UNIT, Turn, moved, spread
from ckptaudit.linalg.parts import cached_property
from ckptaudit.linalg.products import multiply
from ckptaudit.linalg.symmetric import Eigen

EPS = torch.finfo(torch.float64).eps


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
        self._change = cross + cross.mT
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
        return moved(self.s, self.tuned_squares)

    def shift_error(self, error: float) -> float:
        """What an error of C, given by its norm_F, and the eigensolver's on either side may do to the shift.

        The eigensolver's backward error is taken as r eps times the largest eigenvalue, in norm_F.
        """
        return spread(self.s, error + 2 * len(self.s) * EPS * float(self.s[0].square()))

    def coupling(self, size: int) -> float:
        """norm_F of what C turns the top `size` directions by: C V less its part along V."""
        v = self._v[:, :size].float()
        image = self._change @ v
        return float(torch.linalg.matrix_norm(image - v @ (v.mT @ image)))

    def turns(self, k: int, size: int) -> tuple[Turn, Turn] | None:
        """How the base's top k directions turned against the tuned top k and the tuned top `size`, size >= k."""
        if size >= len(self.s):
            return None
        v, w = self._v[:, :k], self._tuned.vectors(size)
        s0, s1 = self.s[:k], self.tuned_squares[:size].sqrt()
        images = multiply(v.float().mT, multiply(self._own, v.float())).double()
        # On the left, what stays across is a difference of squares as large as the images of D.
        lost = 4 * UNIT * float(torch.linalg.matrix_norm(images, 2))
        if not math.sqrt(lost) <= ANGLE_ERROR * min(float(s0[-1]), float(s1[-1])):
            return None
        crossed = (multiply(self._cross, v.float()) + 0.5 * multiply(self._own, v.float())).double()
        narrow, wide = (self._turn(v, w[:, :cut], s0, s1[:cut], images, crossed) for cut in (k, size))
        return narrow, wide

    def _turn(
        self,
        v: Float64[Tensor, "r k"],
        w: Float64[Tensor, "r l"],
        s0: Float64[Tensor, "k"],
        s1: Float64[Tensor, "l"],
        images: Float64[Tensor, "k k"],
        crossed: Float64[Tensor, "r k"],
    ) -> Turn:
        """Angles between base directions and the span of tuned ones, from what of those lies across these.

        With Q = V0 - V1 V1'V0 on the right, the left directions W0 V0 = W1 V0 - D V0 leave W1 Q - (I - U1 U1')D V0
        across U1, and its Gram matrix follows from those of W1 and D and from W1'D V0.
        """
        across = v - multiply(w, multiply(w.mT, v))
        mixed = multiply(across.mT, crossed)
        inside = multiply(w.mT, crossed) / s1[:, None]
        left = multiply(across.mT, multiply(self._gram, across)) - mixed - mixed.mT + images
        left -= multiply(inside.mT, inside)
        return Turn(left=_angles(left / s0 / s0[:, None]), right=_angles(multiply(across.mT, across)))

    def captured(self, size: int) -> float:
        """norm_F(U'D V)^2 over the top `size` directions of both sides."""
        v = self._v[:, :size].float()
        crossed = multiply(self._cross, v) - 0.5 * multiply(self._own, v)
        block = multiply(v.mT, crossed).double()
        return float((block / self.s[:size, None]).square().sum())


def _angles(sines: Float64[Tensor, "k k"]) -> Float64[Tensor, "k"]:
    """Angles in degrees, ascending, of which these are the squared sines' matrix."""
    values = torch.linalg.eigvalsh(0.5 * (sines + sines.mT)).clamp(0.0, 1.0)
    return torch.rad2deg(torch.asin(values.sqrt()))
