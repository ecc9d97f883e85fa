"""Singular values and subspaces of W0 + D, followed from those of W0: the update is small and known exactly.

Everything here is for tall matrices, W0 = U S V' with all of S and V known, and works on the tuned Gram matrix
in the base's directions, V'(W0 + D)'(W0 + D)V = S^2 + C. Only C is computed, from D, in float32: its error is
relative to the update, not to the weights. docs/fast-paths.md derives each step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64, Int
from torch import Tensor

from ckptaudit.linalg.changes import ANGLE_ERROR, Turn, angles_of, moved, spread
from ckptaudit.linalg.parts import cached_property
from ckptaudit.linalg.products import UNIT, multiply
from ckptaudit.linalg.symmetric import eigenvalues

NEXT_TERM = 5e-3
"""Largest share of a spectral shift that the terms left out may be estimated at."""

LAST_TERM = 2e-2
"""Largest third-order share at which the series may end with it."""

SAMPLE = 64
"""Columns for which third-order terms are computed: so many of those that mix most, and so many of all."""

STEEPEST = 0.5
"""Largest entry of a subspace's slopes up to which it counts as followed."""

STEPS = 16
CONVERGED = 1e-5
ACCEPTED = 1e-4
"""Relative size of the last correction to a subspace: where to stop, and what is still good enough."""

STRIP = 64
"""Rows at a time for passes that are to stay in the processor's cache."""


@dataclass(frozen=True)
class Planes:
    """Gram matrices of the tangents from the base's top-l subspaces to the tuned ones, in the base's directions."""

    left: Float64[Tensor, "l l"]
    right: Float64[Tensor, "l l"]


class Followed:
    """The tuned matrix seen from the base. What cannot be followed reliably is None."""

    def __init__(
        self,
        s: Float64[Tensor, "r"],
        v: Float32[Tensor, "r r"],
        *,
        cross: Float32[Tensor, "r r"],
        own: Float32[Tensor, "r r"],
    ) -> None:
        self.s, self.v, self._own = s, v, own
        self._cross = multiply(v.mT, multiply(cross, v))

    @cached_property
    def change(self) -> Float32[Tensor, "r r"]:
        """C, the change of the Gram matrix."""
        return self._cross + self._cross.mT

    @cached_property
    def _gaps(self) -> Float32[Tensor, "r r"]:
        """Differences of the first-order squares, row minus column."""
        squares = self.s.square() + self.change.diagonal().double()
        gaps = torch.empty_like(self.change)
        for start in range(0, len(gaps), STRIP):
            gaps[start : start + STRIP] = squares[start : start + STRIP, None] - squares[None, :]
        return gaps

    @cached_property
    def _off(self) -> Float32[Tensor, "r r"]:
        off = self.change.clone()
        off.diagonal().zero_()
        return off

    @cached_property
    def _mixing(self) -> Float32[Tensor, "r r"]:
        """Tangents of the angles that diagonalize each pair of directions by itself: C_ij / gap, 1 for a tie."""
        mixing = torch.empty_like(self._off)
        # By strips that stay in the processor's cache.
        for start in range(0, len(mixing), STRIP):
            off, gaps = (matrix[start : start + STRIP] for matrix in (self._off, self._gaps))
            root = gaps.square().addcmul_(off, off, value=4).sqrt_()
            sum_ = torch.copysign(root, gaps).add_(gaps)
            torch.div(2 * off, sum_.where(root > 0, 1.0), out=mixing[start : start + STRIP])
        return mixing

    @cached_property
    def tuned_squares(self) -> Float64[Tensor, "r"]:
        """Squares of the tuned matrix's singular values, descending.

        To second order, each pair of directions solved exactly; with the third-order terms where they matter; and
        from all of S^2 + C where they are no small part of the shift.
        """
        second = (self._off * self._mixing).sum(dim=1, dtype=torch.float64)
        squares = self.s.square() + self.change.diagonal().double() + second
        third, fourth, shift = self._third(), self._fourth(second), moved(self.s, _descending(squares))
        if third + fourth <= NEXT_TERM * shift:
            return _descending(squares)
        if third <= LAST_TERM * shift and fourth <= NEXT_TERM * shift:
            more = (self._mixing * (self._off @ self._mixing)).sum(dim=0, dtype=torch.float64)
            return _descending(squares + more)
        whole = self.change.double()
        whole.diagonal().add_(self.s.square())
        return eigenvalues(whole).clamp(min=0)

    def act(self, rows: Float32[Tensor, "p r"]) -> Float32[Tensor, "p r"]:
        """Rows times C, in the coordinates of the matrix."""
        return multiply(multiply(multiply(rows, self.v), self.change), self.v.mT)

    def shift(self) -> float:
        """norm(s(W0 + D) - s(W0))."""
        return moved(self.s, self.tuned_squares)

    def shift_error(self, error: float) -> float:
        """What an error of C, given by its norm_F, may do to the shift."""
        return spread(self.s, error)

    def _third(self) -> float:
        """Estimate of the norm of the third-order terms of the singular values, x_i' C x_i / (2 s_i).

        Computed for the columns that mix most, and for an even sample that stands for the rest.
        """
        r = len(self.s)
        worst = self._mixing.square().sum(dim=0).topk(min(r, SAMPLE)).indices
        sample = torch.arange(0, r, max(1, r // SAMPLE), device=self.s.device)
        squares = [self._third_squares(columns) for columns in (worst, sample)]
        return math.sqrt(squares[0] + squares[1] * r / len(sample))

    def _fourth(self, second: Float64[Tensor, "r"]) -> float:
        """Estimate of the norm of the fourth-order terms: the second, times the squared mixing of a direction.

        Its strongest partner is left out, since each pair of directions is solved exactly. The third-order
        terms can vanish where these do not: an update of a single entry is an example.
        """
        mixed = self._mixing.square()
        beyond = (mixed.sum(dim=0) - mixed.amax(dim=0)).double()
        return float(torch.linalg.vector_norm(second * beyond / (2 * self.s).clamp_min(1e-300)))

    def _third_squares(self, columns: Int[Tensor, "_"]) -> float:
        x = self._mixing[:, columns]
        terms = (x * (self._off @ x)).sum(dim=0).double() / (2 * self.s[columns]).clamp_min(1e-300)
        return float(terms.square().sum())

    def coupling(self, size: int) -> float:
        """norm_F(C21), which turns the top `size` directions."""
        return float(torch.linalg.matrix_norm(self._off[size:, :size]))

    def turns(self, k: int, size: int) -> tuple[Turn, Turn] | None:
        """How the base's top k directions turned against the tuned top k and the tuned top `size`, size >= k.

        None where no iteration finds these subspaces.
        """
        found = self._tangents(k, size)
        if found is None:
            return None
        narrow, wide = (Turn(angles(planes.left, k), angles(planes.right, k)) for planes in found)
        return narrow, wide

    def _tangents(self, k: int, size: int) -> tuple[Planes, Planes] | None:
        if size >= len(self.s):
            return None
        cross = self._off[size:, :size]
        outer = _slopes(
            cross, self._off[size:, size:], self._off[:size, :size], cross.mT, self._gaps[:size, size:].mT
        )
        if outer is None:
            return None
        images, moved = self._images(outer, size)
        # On the left, what stays across is a difference of squares as large as the images of D.
        lost = 4 * UNIT * float(torch.linalg.matrix_norm(images, 2))
        if not math.sqrt(lost) <= ANGLE_ERROR * float(self.s[size - 1]):
            return None
        wide = self._planes(outer, images, moved)
        within = self._within(outer, k, size) if size > k else outer[:0, :k]
        if within is None:
            return None
        # V [I; Y] times [I; Z] spans the top k within the top `size`.
        inner = torch.cat([within, outer[:, :k] + outer[:, k:] @ within])
        turn = torch.cat([torch.eye(k, dtype=within.dtype, device=within.device), within]).double()
        return self._planes(inner, turn.mT @ images @ turn, moved @ turn), wide

    def _within(self, outer: Float32[Tensor, "q l"], k: int, size: int) -> Float32[Tensor, "p k"] | None:
        """The slopes of the top k within the top `size`, on which the Gram matrix acts as A11 + C12 Y."""
        action = self._off[:size, :size] + self._off[:size, size:] @ outer
        bends = action.diagonal().clone()
        action.diagonal().zero_()
        gaps = self._gaps[:k, k:size].mT + bends[:k] - bends[k:, None]
        return _slopes(action[k:, :k], action[k:, k:], action[:k, :k], action[:k, k:], gaps)

    def _images(
        self, y: Float32[Tensor, "q l"], size: int
    ) -> tuple[Float64[Tensor, "l l"], Float64[Tensor, "r l"]]:
        """(D V [I; Y])'(D V [I; Y]) and V'W0'D V [I; Y]."""
        v = self.v[:, :size] + multiply(self.v[:, size:], y)
        images = multiply(self._own, v)
        crossed = self._cross[:, :size] + multiply(self._cross[:, size:], y) - 0.5 * multiply(self.v.mT, images)
        return multiply(v.mT, images).double(), crossed.double()

    def _planes(
        self, slopes: Float32[Tensor, "q l"], images: Float64[Tensor, "l l"], moved: Float64[Tensor, "r l"]
    ) -> Planes:
        """Tangents on both sides. On the left, W1 V [I; Y] is split along U and across it by Gram matrices."""
        y, size = slopes.double(), slopes.shape[1]
        s, rest = self.s[:size], self.s[size:]
        inside = moved[:size] / s[:, None]
        stretched = y * rest[:, None]
        mixed = y.mT @ moved[size:]
        across = stretched.mT @ stretched + mixed + mixed.mT + images - inside.mT @ inside
        along = torch.diag(s) + inside
        left = torch.linalg.solve(along.mT, torch.linalg.solve(along.mT, across).mT)
        return Planes(left=0.5 * (left + left.mT), right=y.mT @ y)

    def captured(self, size: int) -> float:
        """norm_F(U'D V)^2 over the top `size` directions of both sides."""
        v = self.v[:, :size]
        block = (self._cross[:size, :size] - 0.5 * (v.mT @ (self._own @ v))).double()
        return float((block / self.s[:size, None]).square().sum())


def angles(tangents: Float64[Tensor, "l l"], count: int) -> Float64[Tensor, "c"]:
    """Angles in degrees, ascending, from the first `count` base directions to the tuned top-l subspace.

    With T'T the Gram matrix of the tangents, the squared sines are the eigenvalues of the leading block of
    T'T (I + T'T)^-1.
    """
    eye = torch.eye(len(tangents), dtype=tangents.dtype, device=tangents.device)
    return angles_of(torch.linalg.solve(eye + tangents, tangents)[:count, :count])


def _descending(squares: Float64[Tensor, "r"]) -> Float64[Tensor, "r"]:
    return squares.clamp(min=0).sort(descending=True).values


def _slopes(
    lower: Float32[Tensor, "q l"],
    outer: Float32[Tensor, "q q"],
    inner: Float32[Tensor, "l l"],
    upper: Float32[Tensor, "l q"],
    gaps: Float32[Tensor, "q l"],
) -> Float32[Tensor, "q l"] | None:
    """Y with span [I; Y] invariant: the Riccati equation A21 + A22 Y = Y (A11 + A12 Y), by fixed point.

    The diagonals of A11 and A22 are in `gaps`, column minus row.
    """
    if not float(gaps.amin()) > 0:
        return None
    y = lower / gaps
    step, length = math.inf, 0.0
    for _ in range(STEPS):
        following = (lower + multiply(outer, y)).sub_(multiply(y, inner + multiply(upper, y))).div_(gaps)
        step, length = (float(torch.linalg.matrix_norm(w)) for w in (following - y, following))
        y = following
        if not step > CONVERGED * length:
            break
    return y if step <= ACCEPTED * length and float(y.abs().amax()) <= STEEPEST else None
